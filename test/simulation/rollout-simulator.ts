import { shortId } from '../../protocol/release/description.ts'
import { judgeFailures, judgeLease, judgeWave, type RolloutPeer } from '../../protocol/rollout/judge-rollout.ts'
import type { RolloutPlan } from '../../protocol/rollout/rollout-plan.ts'
import { IDLE, stepUpdate, type UpdateInput, type UpdateState } from '../../agent/slots/update-machine.ts'
import { seededRandom } from './seeded-random.ts'

/** A fleet on release 1 in virtual time, to which release 2 has been handed. */
export type RolloutScenario = {
  readonly seed: number
  readonly devices: number
  readonly plan: RolloutPlan
  readonly tickMs: number
  readonly labels: (device: number) => Readonly<Record<string, string>>
  /** Whether the release works on a device. */
  readonly works: (device: number) => boolean
  /** In which network a device is at a time; devices of one network hear each other within a tick. Negative: switched off. */
  readonly network: (device: number, nowMs: number) => number
  readonly openWaves: number
}

const OLD = '1'.repeat(64)
const NEW = '2'.repeat(64)
/** As devices do in a fleet of 150: at rest, and while an update is under way. */
const REST_MS = 600_000
const BUSY_MS = 45_000
const LEASE_MS = 600_000

class Device {
  readonly id: string
  readonly labels: Readonly<Record<string, string>>
  state: UpdateState = IDLE
  running = { id: OLD, era: 1, seq: 1 }
  waitedMs = 0
  wishedSinceMs: number | undefined
  provenSinceMs = 0
  /** Set while it reboots or judges its health. */
  busyUntilMs: number | undefined
  tried = false
  provenAtMs: number | undefined

  constructor(at: number, labels: Readonly<Record<string, string>>) {
    this.id = `device-${at}`
    this.labels = labels
  }

  input(input: UpdateInput): void {
    const { state, effects } = stepUpdate(this.state, input)
    this.state = state
    for (const effect of effects) if (effect.type === 'then') this.input(effect.input)
  }
}

/**
 * Runs the real update machine and the real rollout rules of many devices with a seeded clock and network.
 * Boots take 20–60 s, a trial 30 s.
 */
export class RolloutSimulator {
  readonly #scenario: RolloutScenario
  readonly #random: () => number
  readonly devices: readonly Device[]
  /** What is known in each network: newest record and when it was heard. */
  readonly #boards = new Map<
    number,
    Map<string, { readonly peer: RolloutPeer; readonly heardMs: number; readonly seq: number }>
  >()
  /** Most devices of one cell that rebooted or were on trial in one tick. */
  mostRebootingInCell = 0
  nowMs = 0

  constructor(scenario: RolloutScenario) {
    this.#scenario = scenario
    this.#random = seededRandom(scenario.seed)
    this.devices = Array.from({ length: scenario.devices }, (_, at) => new Device(at, scenario.labels(at)))
    for (const device of this.devices) {
      device.input({ type: 'candidate', release: { id: NEW, version: '2', era: 1, seq: 2, tries: 3 } })
      device.input({ type: 'written', id: NEW })
    }
  }

  /** Lets virtual time pass until `endMs`, or until `done`. */
  run(endMs: number, done: () => boolean = () => false): void {
    for (; this.nowMs < endMs && !done(); this.nowMs += this.#scenario.tickMs) {
      this.devices.forEach((device, at) => this.#publish(device, this.#scenario.network(at, this.nowMs)))
      this.#shareBoards()
      this.devices.forEach((device, at) => {
        if (this.#scenario.network(at, this.nowMs) >= 0) this.#live(device, at)
      })
      this.#countCells()
    }
  }

  count(check: (device: Device) => boolean): number {
    return this.devices.filter(check).length
  }

  get proven(): number {
    return this.count((device) => device.running.id === NEW && device.state.phase === 'idle')
  }

  get tried(): number {
    return this.count((device) => device.tried)
  }

  #publish(device: Device, network: number): void {
    // While it boots it says nothing; neighbours see its last word grow old.
    const booting = device.state.phase === 'armed' && device.busyUntilMs !== undefined
    if (network < 0) return
    const board = this.#boards.get(network) ?? new Map()
    this.#boards.set(network, board)
    const known = board.get(device.id)
    if (booting && known?.peer.rebooting === true) return
    const peer: RolloutPeer = {
      device: device.id,
      labels: device.labels,
      running: device.running,
      soaked: this.nowMs - device.provenSinceMs >= this.#scenario.plan.soakSeconds * 1_000,
      failedId: device.state.failed.at(-1)?.id,
      rebooting: device.state.phase === 'armed' || device.state.phase === 'trial',
      wishes: device.wishedSinceMs === undefined ? undefined : NEW,
      ageMs: 0,
    }
    const changed = known === undefined || JSON.stringify(known.peer) !== JSON.stringify(peer)
    const isBusy = device.state.phase !== 'idle' || peer.wishes !== undefined
    if (changed || this.nowMs - known.heardMs >= (isBusy ? BUSY_MS : REST_MS))
      board.set(device.id, { peer, heardMs: this.nowMs, seq: this.nowMs })
  }

  /** A device that walks from one network to another carries what it has heard. */
  #shareBoards(): void {
    this.devices.forEach((_, at) => {
      const before = this.#boards.get(this.#scenario.network(at, this.nowMs - this.#scenario.tickMs))
      const after = this.#boards.get(this.#scenario.network(at, this.nowMs))
      if (before === undefined || after === undefined || before === after) return
      for (const [id, entry] of before) if ((after.get(id)?.seq ?? -1) < entry.seq) after.set(id, entry)
    })
  }

  #heard(device: Device, at: number): readonly RolloutPeer[] {
    const board = this.#boards.get(this.#scenario.network(at, this.nowMs)) ?? new Map()
    return [...board.values()]
      .filter(({ peer }) => peer.device !== device.id)
      .map(({ peer, heardMs }) => ({ ...peer, ageMs: this.nowMs - heardMs }))
  }

  #live(device: Device, at: number): void {
    const { plan, tickMs, openWaves } = this.#scenario
    if (device.busyUntilMs !== undefined) {
      if (this.nowMs < device.busyUntilMs) return
      device.busyUntilMs = undefined
      if (device.state.phase === 'armed') return this.#boot(device)
      if (device.state.phase === 'trial') return this.#judge(device, at)
    }
    if (device.state.phase !== 'written') return
    device.waitedMs += tickMs
    const peers = this.#heard(device, at)
    const release = { id: NEW, era: 1, seq: 2, plan }
    const failures = judgeFailures(release, peers)
    if (failures !== undefined) return device.input({ type: 'halt', id: NEW, reason: failures })
    const question = { release, device, peers }
    if (!judgeWave({ ...question, waitedMs: device.waitedMs, openWaves }).open) {
      device.wishedSinceMs = undefined
      return
    }
    device.wishedSinceMs ??= this.nowMs
    const wishedMs = this.nowMs - device.wishedSinceMs
    if (!judgeLease({ ...question, wishedMs, leaseMs: LEASE_MS }).open) return
    device.wishedSinceMs = undefined
    device.tried = true
    device.input({ type: 'may-reboot' })
    device.busyUntilMs = this.nowMs + 20_000 + this.#random() * 40_000
  }

  #boot(device: Device): void {
    device.input({
      type: 'started',
      slot: shortId(NEW),
      good: shortId(OLD),
      remaining: 2,
      counted: true,
      oneShot: false,
      trace: '',
    })
    device.busyUntilMs = this.nowMs + 30_000
  }

  #judge(device: Device, at: number): void {
    if (this.#scenario.works(at)) {
      device.input({ type: 'healthy', proven: { floor: { era: 1, seq: 0 }, dataVersion: 0 } })
      device.running = { id: NEW, era: 1, seq: 2 }
      device.provenAtMs = this.nowMs
      device.provenSinceMs = this.nowMs
    } else device.input({ type: 'unhealthy', reason: 'does not work here', log: '' })
  }

  #countCells(): void {
    const cells = new Map<string, number>()
    for (const { labels, state } of this.devices) {
      const cell = labels['cell']
      if (cell === undefined || (state.phase !== 'armed' && state.phase !== 'trial')) continue
      cells.set(cell, (cells.get(cell) ?? 0) + 1)
    }
    this.mostRebootingInCell = Math.max(this.mostRebootingInCell, ...cells.values())
  }
}
