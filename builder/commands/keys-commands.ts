import { Command, Option } from 'commander'
import { renameSync } from 'node:fs'
import { FlotillaError } from '../../protocol/errors.ts'
import { printRows } from '../../protocol/terminal/print.ts'
import {
  createKeyFile,
  KEY_PURPOSES,
  type KeyPurpose,
  listKeys,
  openKey,
  spokenFingerprint,
} from '../release/key-file.ts'
import { Repository } from '../release/repository.ts'
import { replaceKey } from '../release/rotate-key.ts'
import { publishStaged, signStaged, stage, stagingDirectory, summarizeStaged, readStaged } from '../release/staging.ts'
import { repoOption } from './fleet-commands.ts'
import { askPassphrase } from './ask.ts'

/** `flotilla keys`: make, show and replace signing keys. */
export function keysCommand(): Command {
  return new Command('keys')
    .description('signing keys')
    .addCommand(initKey())
    .addCommand(showKeys())
    .addCommand(rotateKey())
}

function initKey(): Command {
  return new Command('init')
    .description('make a key; its secret is encrypted with a passphrase')
    .requiredOption('--name <name>', 'name of the holder, such as alice-root')
    .addOption(new Option('--purpose <purpose>', 'what it may sign').choices(KEY_PURPOSES).makeOptionMandatory())
    .option('--out <dir>', 'directory', 'keys')
    .action(async (options: { name: string; purpose: KeyPurpose; out: string }) => {
      const key = createKeyFile(options.out, options.name, options.purpose, await askPassphrase(`key ${options.name}`))
      process.stdout.write(`${key.path}\n`)
      process.stderr.write(`${key.purpose} key ${key.name}: ${spokenFingerprint(key.publicHex)}\n`)
    })
}

function showKeys(): Command {
  return new Command('show')
    .description('keys in a directory')
    .argument('[dir]', 'directory of key files (default: those of the repository)')
    .addOption(repoOption())
    .option('--json', 'machine-readable output')
    .action((directory: string | undefined, options: { repo: string; json?: boolean }) => {
      const keys = listKeys(directory ?? Repository.open(options.repo).keysDirectory())
      printRows(
        keys,
        [
          ['NAME', (key) => key.name],
          ['PURPOSE', (key) => key.purpose],
          ['FINGERPRINT', (key) => spokenFingerprint(key.publicHex)],
          ['KEY ID', (key) => key.keyId.slice(0, 16)],
        ],
        options,
      )
    })
}

function rotateKey(): Command {
  return new Command('rotate')
    .description('replace a key by a new one, wherever the metadata names it')
    .argument('<name>', 'the key to replace')
    .addOption(repoOption())
    .option('--prepare', 'only stage; sign and publish later')
    .addHelpText(
      'after',
      "\nA lost or stolen publisher key is replaced by root, a CI key by targets, a CA key by the fleet's policy.\nThe old key file is kept as NAME.key.revoked.",
    )
    .action(async (name: string, options: { repo: string; prepare?: boolean }) => {
      const repository = Repository.open(options.repo)
      const old = listKeys(repository.keysDirectory()).find((key) => key.name === name)
      if (old === undefined)
        throw new FlotillaError('NOT_FOUND', `rotate key ${name}: it does not lie in ${repository.keysDirectory()}`)
      const passphrase = await askPassphrase('the keys')
      const signers = listKeys(repository.keysDirectory())
        .filter((key) => ['root', 'manager', 'ci', 'fleet'].includes(key.purpose))
        .map((key) => openKey(key.path, passphrase))
      renameSync(old.path, `${old.path}.revoked`)
      const fresh = createKeyFile(repository.keysDirectory(), name, old.purpose, passphrase)
      stage(stagingDirectory(repository), replaceKey(repository, old, fresh, Date.now()))
      process.stderr.write(`${summarizeStaged(repository, readStaged(stagingDirectory(repository))).join('\n')}\n`)
      if (options.prepare === true) return
      signStaged(repository, stagingDirectory(repository), [
        ...signers,
        ...(['root', 'manager', 'ci', 'fleet'].includes(fresh.purpose) ? [openKey(fresh.path, passphrase)] : []),
      ])
      publishStaged(repository, stagingDirectory(repository), {
        publishers: repository.openKeys('publisher', passphrase),
        nowMs: Date.now(),
        minRoot: undefined,
      })
      process.stderr.write('published\n')
    })
}
