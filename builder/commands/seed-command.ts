import { Command } from 'commander'
import { FlotillaError } from '../../protocol/errors.ts'
import type { FleetRow } from '../../protocol/gossip/fleet-rows.ts'
import { type Release, releaseBytes } from '../../protocol/release/description.ts'
import { fleetTable } from '../../protocol/terminal/fleet-table.ts'
import { bar, formatBytes, LiveView } from '../../protocol/terminal/print.ts'
import { Repository } from '../release/repository.ts'
import { findDevice } from '../seed/find-device.ts'
import { OperatorSession, operatorIdentity } from '../seed/operator-session.ts'
import { firstCa, repoOption } from './fleet-commands.ts'

type Options = { repo: string; interface: string[]; json?: boolean; until: 'first' | 'all'; timeout: string }

/** `flotilla seed`: hand a release to one device and watch it spread. */
export function seedCommand(): Command {
  return new Command('seed')
    .description('hand a release to one device and watch the fleet take it from there')
    .argument('<device>', 'name, id or address (192.168.1.7, 192.168.1.7:4848, /ip4/…/tcp/…)')
    .argument('<release>', 'the release: id, board@version, board/channel or board; must be current')
    .addOption(repoOption())
    .option('--interface <names...>', 'look for the device on these links only', [])
    .option(
      '--until <whom>',
      'first: stop when that device holds it; all: watch until every device of the board is proven',
      'all',
    )
    .option('--timeout <seconds>', 'give up after', '3600')
    .option('--json', 'one JSON object per change')
    .addHelpText(
      'after',
      '\nExamples:\n  flotilla seed robot-3 pi-4@2026.11.2\n  flotilla seed 192.168.1.7 pi-4/stable --until first',
    )
    .action(seed)
}

async function seed(device: string, name: string, options: Options): Promise<void> {
  if (!['first', 'all'].includes(options.until)) throw new FlotillaError('USAGE', 'seed: --until is first or all')
  const repository = Repository.open(options.repo)
  const release = repository.findRelease(name)
  const current = repository.releases().find((published) => published.release.id === release.id)
  if (current?.pointer.halted !== undefined)
    throw new FlotillaError(
      'FELL_BACK',
      `seed ${name}: it is halted (${current.pointer.halted.reason}); publish the same content again under a new version`,
    )
  if (current === undefined) {
    throw new FlotillaError(
      'NOT_FOUND',
      `seed ${name}: it is not the current release of its channel; devices only go forward`,
    )
  }
  const identity = operatorIdentity(repository, () => firstCa(repository, process.env['FLOTILLA_PASSPHRASE']))
  const session = new OperatorSession({
    repository,
    ...identity,
    releases: repository.releases().map((current) => current.release),
    onRefused: (id, code, why) => process.stderr.write(`refused ${id}: ${code} ${why}\n`),
  })
  await session.start()
  try {
    const member = await session.connect(await findDevice(device, repository.fleet, options.interface))
    process.stderr.write(`connected to ${member.certificate.name} (${member.certificate.board}) at ${member.address}\n`)
    await watch(session, release, member.certificate.name, options)
  } finally {
    await session.stop()
  }
}

async function watch(session: OperatorSession, release: Release, first: string, options: Options): Promise<void> {
  const view = new LiveView()
  const startedMs = performance.now()
  let last = ''
  for (;;) {
    const rows = session.fleet()
    const state = judgeSpread(rows, release, first)
    if (options.json === true) {
      const line = JSON.stringify({
        servedBytes: session.servedBytes,
        first: state.first,
        fleet: rows.map(({ ageSeconds: _age, ...row }) => row),
      })
      if (line !== last) process.stdout.write(`${line}\n`)
      last = line
    } else view.draw(liveLines(rows, release, first, session.servedBytes, state))
    if (state.firstHolds && options.until === 'first') return
    if (state.settled && state.fellBack.length + state.halted.length > 0) {
      const list = (what: string, found: readonly FleetRow[]) =>
        found.length === 0 ? [] : [`${what} ${found.map((row) => `${row.name} (${row.reason})`).join('; ')}`]
      throw new FlotillaError(
        'FELL_BACK',
        `seed ${release.description.version}: ${[...list('fell back on', state.fellBack), ...list('halted on', state.halted)].join('; ')}`,
      )
    }
    if (state.settled) {
      process.stderr.write(
        `every ${release.description.board} heard of runs ${release.description.version}, proven, after ${Math.round((performance.now() - startedMs) / 1_000)} s\n`,
      )
      return
    }
    if (performance.now() - startedMs > Number(options.timeout) * 1_000)
      throw new FlotillaError('TIMEOUT', `seed: not settled within ${options.timeout} s`)
    await new Promise((resolve) => setTimeout(resolve, 500))
  }
}

/** How far the release has come, from the records heard. Pure. */
export function judgeSpread(rows: readonly FleetRow[], release: Release, first: string) {
  const ours = rows.filter((row) => row.board === release.description.board)
  const proven = ours.filter((row) => row.releaseId === release.id && row.state === 'proven')
  const fellBack = ours.filter(
    (row) => row.state === 'fell-back' && row.reason.startsWith(`${release.description.version}:`),
  )
  const halted = ours.filter((row) => row.haltedId === release.id && !proven.includes(row) && !fellBack.includes(row))
  const firstRow = rows.find((row) => row.name === first)
  const firstHolds =
    firstRow !== undefined &&
    (firstRow.releaseId === release.id ||
      firstRow.holds.includes(release.id) ||
      (firstRow.next === release.description.version && ['written', 'armed', 'trial'].includes(firstRow.state)))
  return {
    first: firstRow?.percent ?? 0,
    firstHolds,
    proven: proven.length,
    of: ours.length,
    fellBack,
    halted,
    settled: ours.length > 0 && proven.length + fellBack.length + halted.length === ours.length,
  }
}

function liveLines(
  rows: readonly FleetRow[],
  release: Release,
  first: string,
  servedBytes: number,
  state: ReturnType<typeof judgeSpread>,
): string[] {
  const percent = state.firstHolds ? 100 : state.first
  return [
    `seed ${release.description.board}@${release.description.version} (${formatBytes(releaseBytes(release.description))}) → ${first}  ${bar(percent, 20)} ${percent} %, ${formatBytes(servedBytes)} sent`,
    `proven on ${state.proven} of ${state.of}`,
    ...fleetTable(rows).trimEnd().split('\n'),
  ]
}
