import { Command } from 'commander'
import { FlotillaError } from '../../protocol/errors.ts'
import { type Release, releaseBytes, shortId } from '../../protocol/release/description.ts'
import type { RolloutPlan } from '../../protocol/rollout/rollout-plan.ts'
import { formatBytes, printRows } from '../../protocol/terminal/print.ts'
import { exportArchive, importArchive } from '../release/archive.ts'
import { diffReleases } from '../release/diff-releases.ts'
import { openKey } from '../release/key-file.ts'
import { Repository } from '../release/repository.ts'
import {
  mergeStaged,
  publishStaged,
  readStaged,
  signStaged,
  stagingDirectory,
  summarizeStaged,
} from '../release/staging.ts'
import { verifyRelease } from '../release/verify-release.ts'
import { createCommand } from './create-command.ts'
import { repoOption } from './fleet-commands.ts'
import { askPassphrase, confirm } from './ask.ts'
import { haltCommand, openCommand } from './rollout-commands.ts'

/** `flotilla release`: make, sign, publish, look at and carry releases. */
export function releaseCommand(): Command {
  const release = new Command('release').description('make, sign, publish and carry releases')
  for (const command of [
    createCommand('create'),
    createCommand('prepare'),
    haltCommand(),
    openCommand(),
    signCommand(),
    mergeCommand(),
    publishCommand(),
    listCommand(),
    showCommand(),
    verifyCommand(),
    diffCommand(),
    exportCommand(),
    importCommand(),
  ])
    release.addCommand(command)
  return release
}

function signCommand(): Command {
  return new Command('sign')
    .description('show what is staged and add signatures')
    .addOption(repoOption())
    .requiredOption('--key <files...>', 'key files to sign with')
    .option('--staging <dir>', 'a copy of the staging directory, such as on a stick')
    .option('--yes', 'do not ask')
    .action(async (options: { repo: string; key: string[]; staging?: string; yes?: boolean }) => {
      const repository = Repository.open(options.repo)
      const staging = options.staging ?? stagingDirectory(repository)
      for (const line of summarizeStaged(repository, readStaged(staging))) process.stderr.write(`${line}\n`)
      await confirm('Sign this?', options.yes === true)
      const passphrase = await askPassphrase('the keys')
      const signed = signStaged(
        repository,
        staging,
        options.key.map((file) => openKey(file, passphrase)),
      )
      if (signed.length === 0)
        throw new FlotillaError('SIGNATURE', 'sign: none of these keys may sign anything that is staged')
      process.stdout.write(`signed ${signed.join(', ')}\n`)
    })
}

function mergeCommand(): Command {
  return new Command('merge')
    .description('take the signatures from another copy of the staging directory')
    .argument('<dir>', 'the copy')
    .addOption(repoOption())
    .action((directory: string, options: { repo: string }) => {
      const repository = Repository.open(options.repo)
      process.stdout.write(`merged ${mergeStaged(stagingDirectory(repository), directory).join(', ')}\n`)
      for (const line of summarizeStaged(repository, readStaged(stagingDirectory(repository))))
        process.stderr.write(`${line}\n`)
    })
}

function publishCommand(): Command {
  return new Command('publish')
    .description('make what is staged and fully signed current; refuses below the threshold')
    .addOption(repoOption())
    .action(async (options: { repo: string }) => {
      const repository = Repository.open(options.repo)
      readStaged(stagingDirectory(repository))
      const publishers = repository.openKeys('publisher', await askPassphrase('the publisher key'))
      if (publishers.length === 0)
        throw new FlotillaError('NOT_FOUND', `publish: no publisher key lies in ${repository.keysDirectory()}`)
      publishStaged(repository, stagingDirectory(repository), { publishers, nowMs: Date.now(), minRoot: undefined })
      process.stdout.write('published\n')
    })
}

function listCommand(): Command {
  return new Command('list')
    .description('releases in the repository; * is current')
    .addOption(repoOption())
    .option('--json', 'machine-readable output')
    .action((options: { repo: string; json?: boolean }) => {
      const repository = Repository.open(options.repo)
      const current = new Set(repository.releases().map(({ release }) => release.id))
      const rows = repository.allReleases().map(({ id, description }) => ({
        id,
        current: current.has(id),
        board: description.board,
        channel: description.channel,
        version: description.version,
        seq: description.seq,
        bytes: releaseBytes(description),
        issued: description.issued,
      }))
      printRows(
        rows,
        [
          ['', (row) => (row.current ? '*' : '')],
          ['ID', (row) => shortId(row.id)],
          ['BOARD', (row) => row.board],
          ['CHANNEL', (row) => row.channel],
          ['VERSION', (row) => row.version],
          ['SEQ', (row) => String(row.seq)],
          ['SIZE', (row) => formatBytes(row.bytes)],
          ['ISSUED', (row) => row.issued],
        ],
        options,
      )
    })
}

function showCommand(): Command {
  return new Command('show')
    .description('everything a release says')
    .argument('<release>', 'id (or its beginning), board@version, board/channel, or board')
    .addOption(repoOption())
    .option('--json', 'machine-readable output')
    .action((name: string, options: { repo: string; json?: boolean }) => {
      const release = Repository.open(options.repo).findRelease(name)
      if (options.json === true)
        return void process.stdout.write(`${JSON.stringify({ id: release.id, ...release.description }, null, 2)}\n`)
      process.stdout.write(describeRelease(release))
    })
}

function describeRelease({ id, description }: Release): string {
  const head = [
    ['release', id],
    ['board', `${description.board}, channel ${description.channel}, hardware ${description.hardware.join(', ')}`],
    [
      'version',
      `${description.version} (era ${description.era}, seq ${description.seq}, at least seq ${description.minSeq} afterwards)`,
    ],
    ['issued', description.issued],
    ['health', `${description.health.tries} tries, ${description.health.deadlineSeconds} s each`],
    ['rollout', describePlan(description.rollout)],
    ...(description.from.seq === 0
      ? []
      : [['from', `only from seq ${description.from.seq} (era ${description.from.era})`]]),
    ...(description.data.writes === 0
      ? []
      : [['data', `containers write format ${description.data.writes}, read from ${description.data.reads}`]]),
    ...(description.notes === '' ? [] : [['notes', description.notes]]),
  ]
  const artifacts = description.artifacts.map(
    (artifact) =>
      `  ${artifact.kind.padEnd(15)} ${formatBytes(artifact.lengthBytes).padStart(9)}  ${artifact.sha256.slice(0, 16)}  ${artifact.name}`,
  )
  return `${head.map(([key, value]) => `${String(key).padEnd(8)} ${value}`).join('\n')}\n${artifacts.join('\n')}\n`
}

function describePlan(plan: RolloutPlan): string {
  const canaries = Object.entries(plan.canaries).map(([key, value]) => `${key}=${value}`)
  const waves = [...(canaries.length === 0 ? [] : [canaries.join(' ')]), ...plan.shares.map((share) => `${share} %`)]
  const halt =
    plan.maxFailed === 0 ? '' : `; halts by itself at ${plan.maxFailed} failures and ${plan.maxFailedPercent} %`
  const cell = plan.rebootsPerCell === 0 ? '' : `; ${plan.rebootsPerCell} per cell at once`
  if (waves.length === 1) return `everyone at once${halt}${cell}`
  return `${waves.join(', then ')}; next when ${plan.healthyPercent} % ran it for ${plan.soakSeconds} s, or after ${plan.patienceSeconds} s of hearing nothing${halt}${cell}`
}

function verifyCommand(): Command {
  return new Command('verify')
    .description('match metadata and every byte of a release, as a device would')
    .argument('[release]', 'default: all current ones')
    .addOption(repoOption())
    .action((name: string | undefined, options: { repo: string }) => {
      const repository = Repository.open(options.repo)
      const releases =
        name === undefined ? repository.releases().map(({ release }) => release) : [repository.findRelease(name)]
      for (const release of releases) {
        verifyRelease(repository, release)
        process.stdout.write(
          `good: ${release.description.board}@${release.description.version} ${shortId(release.id)}\n`,
        )
      }
    })
}

function diffCommand(): Command {
  return new Command('diff')
    .description('bytes that a device with release FROM must fetch for TO')
    .argument('<from>', 'a release')
    .argument('<to>', 'a release')
    .addOption(repoOption())
    .option('--json', 'machine-readable output')
    .action((from: string, to: string, options: { repo: string; json?: boolean }) => {
      const repository = Repository.open(options.repo)
      const rows = diffReleases(repository, repository.findRelease(from), repository.findRelease(to))
      const sum = rows.reduce(
        (total, row) => ({
          name: 'sum',
          lengthBytes: total.lengthBytes + row.lengthBytes,
          fetchBytes: total.fetchBytes + row.fetchBytes,
          indexBytes: total.indexBytes + row.indexBytes,
        }),
        { name: 'sum', lengthBytes: 0, fetchBytes: 0, indexBytes: 0 },
      )
      printRows(
        [...rows, sum],
        [
          ['ARTIFACT', (row) => row.name],
          ['SIZE', (row) => formatBytes(row.lengthBytes)],
          ['FETCH', (row) => formatBytes(row.fetchBytes)],
          ['', (row) => `${row.lengthBytes === 0 ? 0 : ((row.fetchBytes * 100) / row.lengthBytes).toFixed(1)} %`],
          ['INDEX', (row) => formatBytes(row.indexBytes)],
        ],
        options,
      )
    })
}

function exportCommand(): Command {
  return new Command('export')
    .description('write releases and all metadata into one file, for a USB stick')
    .argument('<file>', 'the file to write')
    .argument('[releases...]', 'default: all current ones')
    .addOption(repoOption())
    .action(async (file: string, names: string[], options: { repo: string }) => {
      const repository = Repository.open(options.repo)
      const releases =
        names.length === 0
          ? repository.releases().map(({ release }) => release)
          : names.map((name) => repository.findRelease(name))
      let bytes = 0
      await exportArchive(repository, releases, file, (part) => void (bytes += part))
      process.stdout.write(`${file}: ${releases.length} releases, ${formatBytes(bytes)}\n`)
    })
}

function importCommand(): Command {
  return new Command('import')
    .description('read a file made by export, with the checks a device makes')
    .argument('<file>', 'the file')
    .addOption(repoOption())
    .action(async (file: string, options: { repo: string }) => {
      const { files, superseded } = await importArchive(Repository.open(options.repo), file)
      process.stdout.write(
        `${files} files taken${superseded ? '; its metadata is superseded by what is here, so it changes no current release' : ''}\n`,
      )
    })
}
