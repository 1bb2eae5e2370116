import type { DeviceRecord, DeviceState } from '../../protocol/gossip/device-record.ts'
import { fleetRows } from '../../protocol/gossip/fleet-rows.ts'
import type { RecordBook } from '../../protocol/gossip/record-book.ts'
import type { Certificate } from '../../protocol/membership/certificate.ts'
import type { FleetNode } from '../../protocol/network/fleet-node.ts'
import type { Identity } from '../../protocol/network/identity.ts'
import type { OwnLinks } from '../../protocol/network/own-links.ts'
import { parseRelease, type Release, releaseBytes } from '../../protocol/release/description.ts'
import { shape } from '../../protocol/shape.ts'
import { freshness, timeFloorMs } from '../../protocol/trust/time-floor.ts'
import type { AgentConfig } from '../config.ts'
import type { Backups } from '../backup/open-backups.ts'
import type { Core } from '../core/open-core.ts'
import type { CoreStatus } from '../core/reconciler.ts'
import type { BootControl } from '../slots/bootloaders/boot-control.ts'
import type { Updater } from '../slots/updater.ts'
import { readSlots, type SlotContent } from '../slots/write-release.ts'
import type { Carrier } from '../store/carrier.ts'
import type { Disk } from '../store/disk.ts'
import type { TrustKeeper } from '../store/trust-keeper.ts'
import type { EventLog } from './event-log.ts'
import type { HoldList } from './hold-list.ts'
import type { LocalApi } from './local-api.ts'
import { MAX_HOLD_SECONDS } from './reboot-gate.ts'
import type { TrafficGuard } from './traffic-guard.ts'

/** The parts of a running agent that its record and its local API speak of. */
export type AgentView = {
  readonly identity: Identity
  readonly certificate: Certificate
  readonly config: AgentConfig
  readonly slot: string
  readonly boot: Disk
  readonly control: BootControl
  readonly node: FleetNode
  readonly links: OwnLinks
  readonly updater: Updater
  readonly carrier: Carrier
  readonly trust: TrustKeeper
  readonly book: RecordBook
  readonly log: EventLog
  readonly holds: HoldList
  readonly traffic: TrafficGuard
  readonly core: Core
  readonly backups: Backups
  readonly counters: { readonly fetchedBytes: number; readonly servedBytes: number }
}

/** What the device says of itself to the fleet; the sequence is added when it is signed. */
export function buildRecord({
  identity,
  certificate,
  config,
  updater,
  carrier,
  trust,
  links,
  backups,
}: AgentView): Omit<DeviceRecord, 'seq'> {
  const { running } = updater
  const { target, failed, halted } = updater.state
  // Tens of percent: a record for every chunk would be a storm.
  const percent = Math.floor(updater.percent() / 10) * 10
  return {
    device: identity.id,
    name: certificate.name,
    board: certificate.board,
    channel: config.channel,
    state: stateOf(updater),
    running: running && {
      id: running.id,
      version: running.description.version,
      era: running.description.era,
      seq: running.description.seq,
      soaked: updater.soaked(),
    },
    next: target && { id: target.id, version: target.version, percent },
    holds: [...(running === undefined ? [] : [running.id]), ...carrier.whole()].slice(0, 32),
    failed: failed.at(-1),
    wishes: updater.wishes,
    halted: halted.at(-1),
    trust: trust.versions,
    holdReason: updater.waitingFor.slice(0, 200),
    labels: config.labels,
    radio: links.isAllRadio,
    backup: backups.head(),
    holder: backups.holder(),
  }
}

function stateOf({ state: { phase, outcome } }: Updater): DeviceState {
  if (phase !== 'idle') return phase
  return outcome === 'fell-back' ? 'fell-back' : 'proven'
}

/** What can be asked of the agent on its own device, and told to it. */
export function agentRoutes(view: AgentView): LocalApi {
  const { node, updater, holds, traffic, log } = view
  return {
    ...view.core.routes,
    ...view.backups.routes,
    'GET /status': () => describeStatus(view),
    'GET /peers': () =>
      node
        .members()
        .map(({ id, certificate: { name, board }, address, radioHops }) => ({ id, name, board, address, radioHops })),
    'GET /events': () => log.since(0),
    'GET /fleet': () => fleetRows(view.book.all(performance.now())),
    'GET /releases': () => describeReleases(view),
    'POST /hold': (body) => {
      const json = shape.object(body, 'hold')
      const reason = shape.string(json['reason'], 'hold: reason', 200)
      const seconds = shape.integer(json['seconds'], 'hold: seconds', 1, MAX_HOLD_SECONDS)
      holds.add(reason, seconds)
      log.add('info', 'hold', { reason, seconds })
      return { reason, seconds }
    },
    'POST /release-hold': (body) => {
      const reason = body === undefined ? undefined : shape.object(body, 'release')['reason']
      return { holds: holds.release(reason === undefined ? undefined : shape.string(reason, 'release: reason', 200)) }
    },
    'POST /limit': (body) => {
      const json = shape.object(body, 'limit')
      const reason = shape.string(json['reason'], 'limit: reason', 200)
      const kib = shape.integer(json['kibPerSecond'], 'limit: kibPerSecond', 0, 100_000_000)
      const seconds = shape.integer(json['seconds'], 'limit: seconds', 1, MAX_HOLD_SECONDS)
      traffic.add(reason, kib * 1_024, seconds)
      log.add('info', 'limit', { reason, kibPerSecond: kib, seconds })
      return { reason, kibPerSecond: kib, seconds }
    },
    'POST /release-limit': (body) => {
      const reason = body === undefined ? undefined : shape.object(body, 'release')['reason']
      return {
        limits: traffic.release(reason === undefined ? undefined : shape.string(reason, 'release: reason', 200)),
      }
    },
    'POST /rollback': async (body) => ({
      to: await updater.rollback(shape.string(shape.object(body, 'rollback')['reason'], 'rollback: reason', 200)),
    }),
  }
}

async function describeStatus(view: AgentView) {
  const { updater, trust, certificate, slot } = view
  const { target, failed, halted, floor } = updater.state
  return {
    device: view.identity.id,
    name: certificate.name,
    fleet: certificate.fleet,
    board: certificate.board,
    channel: view.config.channel,
    pid: process.pid,
    slot,
    goodSlot: await view.control.good(),
    state: stateOf(updater),
    running: updater.running === undefined ? null : describeRelease(updater.running),
    next: target === undefined ? null : { ...target, percent: updater.percent() },
    waitingFor: updater.waitingFor,
    failed,
    halted,
    floor,
    trust: {
      ...trust.versions,
      floor: new Date(timeFloorMs(trust.set)).toISOString(),
      ...freshness(trust.set, Date.now()),
    },
    containers: summarizeCore(view.core.status()),
    peers: view.node.members().length,
    fetchedBytes: view.counters.fetchedBytes,
    servedBytes: view.counters.servedBytes,
    todayBytes: view.traffic.todayBytes,
    limits: view.traffic.verdict.reasons,
    memoryBytes: process.memoryUsage.rss(),
    uptimeSeconds: Math.round(process.uptime()),
  }
}

/** In one line; empty for a device without containers. */
function summarizeCore({ problem, containers }: CoreStatus): string {
  if (problem !== '') return problem
  const asWanted = containers.filter(({ state }) => state === 'as-wanted').length
  const others = containers
    .filter(({ state }) => state !== 'as-wanted')
    .map(({ name, state, reason }) => `${name} ${state}${reason === '' ? '' : ` (${reason})`}`)
  if (containers.length === 0) return ''
  return [`${asWanted} of ${containers.length} as wanted`, ...others].join('; ')
}

function describeRelease({ id, description }: Release) {
  return {
    id,
    board: description.board,
    version: description.version,
    seq: description.seq,
    bytes: releaseBytes(description),
  }
}

async function describeReleases({ boot, slot, carrier }: AgentView) {
  const inSlots = (await readSlots(boot)).map((content) => describeSlot(content, slot))
  const carried = carrier.list().map(({ release, whole, percent, problem }) => ({
    ...describeRelease(release),
    where: 'carried',
    proven: false,
    running: false,
    percent: whole ? 100 : percent,
    problem,
  }))
  return [...inSlots, ...carried]
}

function describeSlot({ slot, release, proven }: SlotContent, running: string) {
  const common = { where: `slot ${slot}`, proven, running: slot === running, percent: 100, problem: '' }
  try {
    return { ...describeRelease(parseRelease(release ?? new Uint8Array())), ...common }
  } catch {
    // Being written, or damaged: shown as it is.
    return { id: slot, board: '', version: 'unreadable', seq: 0, bytes: 0, ...common, percent: 0 }
  }
}
