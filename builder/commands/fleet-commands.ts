import { Command, Option } from 'commander'
import { join } from 'node:path'
import { FlotillaError } from '../../protocol/errors.ts'
import { NAME_PATTERN } from '../../protocol/shape.ts'
import { fleetTable } from '../../protocol/terminal/fleet-table.ts'
import { LiveView } from '../../protocol/terminal/print.ts'
import { createDevKeys, groupKeys } from '../release/fleet-keys.ts'
import { composeFleet } from '../release/init-fleet.ts'
import { listKeys, openKey, spokenFingerprint } from '../release/key-file.ts'
import { Repository } from '../release/repository.ts'
import { publishStaged, signStaged, stage, stagingDirectory } from '../release/staging.ts'
import { visitDevice } from '../seed/visit-device.ts'
import { askPassphrase } from './ask.ts'

/** `--repo`, on every command that works on a repository. */
export function repoOption(): Option {
  return new Option('--repo <dir>', "the operator's repository").env('FLOTILLA_REPO').default('flotilla-repo')
}

/** `flotilla fleet`: start a fleet, look at it. */
export function fleetCommand(): Command {
  return new Command('fleet')
    .description('start a fleet; see every device as last heard')
    .addOption(repoOption())
    .option('--via <device>', 'the member to ask: name, id or address')
    .option('--interface <names...>', 'look for devices on these links only', [])
    .option('--watch', 'go on showing changes until interrupted')
    .option('--json', 'machine-readable output')
    .addHelpText(
      'after',
      '\nExamples:\n  flotilla fleet init --name demo --dev\n  flotilla fleet --via robot-3\n  flotilla fleet --via 192.168.1.7 --watch',
    )
    .action(showFleet)
    .addCommand(initCommand())
}

function initCommand(): Command {
  return new Command('init')
    .description('make a repository and the first metadata of a fleet')
    .addOption(repoOption())
    .requiredOption('--name <fleet>', 'name of the fleet')
    .option('--dev', 'one-person short cut: make all keys here, sign and publish at once')
    .option('--keys <dir>', 'key files of the ceremony; only their public halves are read')
    .addHelpText(
      'after',
      '\nA real fleet: every key holder runs `flotilla keys init`, the files come together for --keys (the secret part may be cut out),\nthen each signs with `flotilla release sign`, and `flotilla release publish` makes it current.',
    )
    .action(async (options: { repo: string; name: string; dev?: boolean; keys?: string }) => {
      if (!NAME_PATTERN.test(options.name))
        throw new FlotillaError(
          'BAD_INPUT',
          `fleet init: ${JSON.stringify(options.name)} is not a plain lower-case name`,
        )
      if ((options.dev === true) === (options.keys !== undefined))
        throw new FlotillaError('USAGE', 'fleet init: give either --dev or --keys DIR')
      const passphrase = options.dev === true ? await askPassphrase('the keys of the new fleet') : ''
      const repository = Repository.create(options.repo, options.name)
      const keys =
        options.keys === undefined
          ? createDevKeys(repository.keysDirectory(), passphrase)
          : groupKeys(listKeys(options.keys))
      stage(stagingDirectory(repository), composeFleet(repository, keys, Date.now()))
      process.stderr.write(`fleet ${options.name} in ${options.repo}\n`)
      for (const key of Object.values(keys).flat())
        process.stderr.write(`  ${key.name.padEnd(14)} ${key.purpose.padEnd(10)} ${spokenFingerprint(key.publicHex)}\n`)
      if (options.dev !== true) {
        process.stderr.write(
          `waits for signatures in ${join(options.repo, 'staging')}: flotilla release sign --key FILE\n`,
        )
        return
      }
      const opened = [...keys.root, ...keys.manager, ...keys.fleet].map((key) => openKey(key.path, passphrase))
      signStaged(repository, stagingDirectory(repository), opened)
      publishStaged(repository, stagingDirectory(repository), {
        publishers: repository.openKeys('publisher', passphrase),
        nowMs: Date.now(),
        minRoot: 1,
      })
      process.stderr.write('published. All keys lie in one place: for development only.\n')
    })
}

async function showFleet(options: {
  repo: string
  via?: string
  interface: string[]
  watch?: boolean
  json?: boolean
}): Promise<void> {
  if (options.via === undefined)
    throw new FlotillaError('USAGE', 'fleet: name a member to ask: flotilla fleet --via DEVICE')
  const repository = Repository.open(options.repo)
  const passphrase = process.env['FLOTILLA_PASSPHRASE']
  const ca = () => firstCa(repository, passphrase)
  await visitDevice(repository, ca, options.via, options.interface, async (session, member) => {
    await session.askFleet(member)
    const view = new LiveView()
    do {
      const rows = session.fleet()
      if (options.json === true) process.stdout.write(`${JSON.stringify(rows, null, options.watch === true ? 0 : 2)}\n`)
      else if (options.watch === true) view.draw(fleetTable(rows).trimEnd().split('\n'))
      else process.stdout.write(fleetTable(rows))
      if (options.watch === true) await new Promise((resolve) => setTimeout(resolve, 1_000))
    } while (options.watch === true)
  })
}

/** The CA key that is kept in the repository. @throws FlotillaError NOT_FOUND, USAGE */
export function firstCa(repository: Repository, passphrase: string | undefined) {
  const ca = listKeys(repository.keysDirectory()).find((key) => key.purpose === 'ca')
  if (ca === undefined) throw new FlotillaError('NOT_FOUND', `enrol: no CA key lies in ${repository.keysDirectory()}`)
  if (passphrase === undefined || passphrase === '')
    throw new FlotillaError('USAGE', `open ${ca.path}: set FLOTILLA_PASSPHRASE`)
  return openKey(ca.path, passphrase)
}
