import { Command } from 'commander'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { releaseBytes, shortId } from '../../protocol/release/description.ts'
import { NO_ROLLOUT, parseRolloutPlan, type RolloutPlan } from '../../protocol/rollout/rollout-plan.ts'
import { formatBytes } from '../../protocol/terminal/print.ts'
import { listImages } from '../containers/add-image.ts'
import { MANIFEST, readManifest } from '../images/image-manifest.ts'
import { prepareRelease } from '../release/create-release.ts'
import { listKeys } from '../release/key-file.ts'
import { Repository } from '../release/repository.ts'
import { readStaged, stage, stagingDirectory, summarizeStaged } from '../release/staging.ts'
import { repoOption } from './fleet-commands.ts'
import { signAndPublish } from './sign-and-publish.ts'

type CreateOptions = {
  repo: string
  board?: string
  channel: string
  images: string
  as: string
  hardware: string[]
  minSeq?: string
  deadline: string
  tries: string
  notes: string
  canary: string[]
  waves: string
  healthy: string
  soak: string
  patience: string
  fleetSize: string
  haltAfter: string
  haltPercent: string
  rebootsPerCell: string
  from?: string
  dataWrites?: string
  dataReads?: string
  json?: boolean
}

/** `release create` and `release prepare`: from a directory of images to staged or published metadata. */
export function createCommand(name: 'create' | 'prepare'): Command {
  return new Command(name)
    .description(
      name === 'create'
        ? 'index, describe, sign and publish what a build left in a directory'
        : 'the same up to the signatures: stage for `release sign`',
    )
    .addOption(repoOption())
    .option('--board <board>', 'the board, such as pi-4 (default: what flotilla compile built)')
    .option('--channel <channel>', 'stable needs two signatures, others one', 'stable')
    .requiredOption(
      '--images <dir>',
      'kernel, rootfs.squashfs, modules.squashfs, device trees, boot files; containers/*.tar and skiff-core.yaml if there are any',
    )
    .requiredOption('--as <version>', 'the version people will read')
    .option('--hardware <ids...>', 'hardware ids it may run on (default: those of the board)', [])
    .option('--min-seq <n>', 'releases below this sequence are refused for good once it is proven')
    .option('--deadline <seconds>', 'time a trial boot has to become healthy', '300')
    .option('--tries <n>', 'trial boots before the device falls back', '3')
    .option('--notes <text>', 'release notes', '')
    .option('--canary <label=value...>', 'devices with all these labels boot it first', [])
    .option('--waves <percents>', 'shares of the fleet that boot it one after another, such as 10,50,100', '100')
    .option('--healthy <percent>', 'healthy devices of a wave that open the next', String(NO_ROLLOUT.healthyPercent))
    .option('--soak <seconds>', 'time a device must run it to count as healthy', String(NO_ROLLOUT.soakSeconds))
    .option(
      '--patience <seconds>',
      'a device that hears nothing of earlier waves waits so long for each',
      String(NO_ROLLOUT.patienceSeconds),
    )
    .option('--fleet-size <n>', 'devices of this board; lets a small fleet see that a wave is empty', '0')
    .option('--halt-after <n>', 'failed trials that halt it by themselves; 0 never', '3')
    .option('--halt-percent <percent>', '... when they are at least this share of all trials', '20')
    .option('--reboots-per-cell <n>', 'devices with the same label `cell` that may reboot at once; 0 for no limit', '0')
    .option(
      '--from <release>',
      'stepping stone: a release that must be booted before this one; none drops those of before',
    )
    .option('--data-writes <n>', "format in which its containers write their data; default: the release before's")
    .option('--data-reads <n>', 'oldest format that they read (default: the same)')
    .option('--json', 'machine-readable output')
    .addHelpText(
      'after',
      `
Examples:
  flotilla release create --board pi-4 --channel stable --images workspaces/pi4/images --as 2026.11.2
  flotilla release create --board pi-4 --images images --as 2026.12 --canary role=test --waves 10,50,100 --soak 3600`,
    )
    .action(async (options: CreateOptions) => {
      const repository = Repository.open(options.repo)
      const { release } = await prepare(repository, options)
      const staging = stagingDirectory(repository)
      for (const line of summarizeStaged(repository, readStaged(staging))) process.stderr.write(`${line}\n`)
      if (name === 'create') {
        await signAndPublish(repository)
      }
      if (options.json === true)
        process.stdout.write(
          `${JSON.stringify({ id: release.id, seq: release.description.seq, bytes: releaseBytes(release.description), published: name === 'create' })}\n`,
        )
      else
        process.stdout.write(
          `${name === 'create' ? 'published' : 'staged'} ${release.description.board}@${release.description.version} seq ${release.description.seq}, ${formatBytes(releaseBytes(release.description))}: ${shortId(release.id)}\n`,
        )
    })
}

async function prepare(repository: Repository, options: CreateOptions) {
  const manifest = readManifest(options.images)
  const board = options.board ?? manifest?.board
  if (board === undefined)
    throw new FlotillaError('USAGE', `release: ${options.images} has no ${MANIFEST} of flotilla compile; say --board`)
  if (manifest !== undefined && manifest.board !== board)
    throw new FlotillaError('BAD_INPUT', `release: ${options.images} was built for ${manifest.board}, not for ${board}`)
  const keys = listKeys(repository.keysDirectory())
  const prepared = prepareRelease(
    repository,
    { ci: keys.filter((key) => key.purpose === 'ci'), manager: keys.filter((key) => key.purpose === 'manager') },
    {
      board,
      channel: options.channel,
      version: options.as,
      images: options.images,
      containerImages: await listImages(options.images),
      hardware: options.hardware.length > 0 ? options.hardware : (manifest?.hardware ?? []),
      minSeq: options.minSeq === undefined ? undefined : wholeNumber(options.minSeq, '--min-seq'),
      health: {
        deadlineSeconds: wholeNumber(options.deadline, '--deadline'),
        tries: wholeNumber(options.tries, '--tries'),
      },
      rollout: rolloutOf(options),
      from: options.from === undefined || options.from === 'none' ? options.from : repository.findRelease(options.from),
      data: dataOf(options),
      notes: options.notes,
      nowMs: Date.now(),
      onProgress: () => {},
    },
  )
  stage(stagingDirectory(repository), prepared.roles)
  return prepared
}

function rolloutOf(options: CreateOptions): RolloutPlan {
  const canaries = options.canary.map((text) => {
    const [key = '', ...value] = text.split('=')
    if (key === '' || value.length === 0)
      throw new FlotillaError('USAGE', `release: --canary ${JSON.stringify(text)} is not label=value`)
    return [key, value.join('=')]
  })
  const plan = {
    canaries: Object.fromEntries(canaries),
    shares: options.waves.split(',').map((share) => wholeNumber(share.trim(), '--waves')),
    healthyPercent: wholeNumber(options.healthy, '--healthy'),
    soakSeconds: wholeNumber(options.soak, '--soak'),
    patienceSeconds: wholeNumber(options.patience, '--patience'),
    devices: wholeNumber(options.fleetSize, '--fleet-size'),
    maxFailed: wholeNumber(options.haltAfter, '--halt-after'),
    maxFailedPercent: wholeNumber(options.haltPercent, '--halt-percent'),
    rebootsPerCell: wholeNumber(options.rebootsPerCell, '--reboots-per-cell'),
  }
  try {
    return parseRolloutPlan(plan, 'rollout')
  } catch (cause) {
    throw new FlotillaError('USAGE', `release: ${messageOf(cause)}`, { cause })
  }
}

function dataOf({ dataWrites, dataReads }: CreateOptions) {
  if (dataWrites === undefined && dataReads === undefined) return undefined
  if (dataWrites === undefined)
    throw new FlotillaError('USAGE', 'release: --data-reads needs --data-writes: no release reads what it cannot write')
  const writes = wholeNumber(dataWrites, '--data-writes')
  const reads = dataReads === undefined ? writes : wholeNumber(dataReads, '--data-reads')
  if (reads > writes)
    throw new FlotillaError('USAGE', `release: --data-reads ${reads} is above --data-writes ${writes}`)
  return { writes, reads }
}

/** @throws FlotillaError USAGE */
function wholeNumber(text: string, what: string): number {
  const value = Number(text)
  if (text === '' || !Number.isSafeInteger(value) || value < 0)
    throw new FlotillaError('USAGE', `release: ${what} ${JSON.stringify(text)} is not a whole number`)
  return value
}
