import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import type { DayCount } from './day-count.ts'
import type { MovedBytes } from './moved-bytes.ts'
import { WishList } from './wish-list.ts'
import { type RoundTrip, Yielding, type YieldVerdict } from './yielding.ts'
import { judgeTraffic, type TrafficRules, type TrafficVerdict, type TrafficWish } from './traffic-policy.ts'

const TICK_MS = 1_000
const METERED_EVERY_MS = 30_000
/** Between two looks at round trips while they are short. */
const CALM_MS = 2_500

export type TrafficGuardDeps = {
  readonly rules: TrafficRules
  /** Written by the robot: line 1 KiB per second, line 2 the reason. While it exists it holds. */
  readonly file: string
  readonly moved: MovedBytes
  readonly day: DayCount
  /** The earliest that today can be: boards wake up in 1970. */
  readonly floorMs: () => number
  /** Round trips of the connections to peers; undefined where the system does not tell. */
  readonly roundTrips: () => Promise<readonly RoundTrip[] | undefined>
  readonly apply: (verdict: TrafficVerdict) => void
}

/** Keeps the limits of the transfer in line with what the robot, the calendar, the budget and the link allow. */
export class TrafficGuard {
  readonly #deps: TrafficGuardDeps
  readonly #wishes = new WishList<TrafficWish>()
  #metered = false
  #meteredMs = -Infinity
  readonly #yielding: Yielding
  #yielded: YieldVerdict = { rate: Infinity, queueMs: 0 }
  #movedBytes = 0
  #movedMs = performance.now()
  #lookedMs = -Infinity
  #isTicking = false
  #timer: NodeJS.Timeout | undefined
  verdict: TrafficVerdict = { sendRate: Infinity, receiveRate: Infinity, reasons: [], closedLinks: new Set() }

  private constructor(deps: TrafficGuardDeps) {
    this.#deps = deps
    this.#yielding = new Yielding(deps.rules.maxDelayMs)
  }

  static async open(deps: TrafficGuardDeps): Promise<TrafficGuard> {
    const guard = new TrafficGuard(deps)
    await guard.#tick()
    guard.#timer = setInterval(() => guard.#tickAlone(), TICK_MS)
    guard.#timer.unref()
    return guard
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer)
    await this.#deps.day.save(0).catch(() => {}) // a full disk: a part of a day is forgotten
  }

  /** The robot asks for a limit, or renews the one with the same reason. @param rate - bytes per second */
  add(reason: string, rate: number, seconds: number): void {
    this.#wishes.add({ reason, rate, untilMs: performance.now() + seconds * 1_000 })
    this.#judge([])
  }

  /** Ends the limit with this reason, or all. @returns how many are left */
  release(reason: string | undefined): number {
    const left = this.#wishes.release(reason)
    this.#judge([])
    return left
  }

  get todayBytes(): number {
    return this.#deps.day.total
  }

  /** One after another: a system that answers late must not be asked twice at once. */
  #tickAlone(): void {
    if (this.#isTicking) return
    this.#isTicking = true
    this.#tick()
      .catch(() => {}) // a full disk: counted in memory
      .finally(() => (this.#isTicking = false))
  }

  async #tick(): Promise<void> {
    const nowMs = performance.now()
    if (this.#deps.rules.meteredRate !== Infinity && nowMs - this.#meteredMs > METERED_EVERY_MS) {
      this.#meteredMs = nowMs
      this.#metered = await isMetered()
    }
    await this.#yield()
    const wish = await readTrafficFile(this.#deps.file)
    this.#deps.day.count(this.#deps.moved.byLink, Math.max(Date.now(), this.#deps.floorMs()))
    this.#judge(wish === undefined ? [] : [wish])
    const budget = Math.min(this.#deps.rules.dailyBytes, ...this.#deps.rules.dailyBytesOf.values())
    if (budget !== Infinity) await this.#deps.day.save(budget)
  }

  async #yield(): Promise<void> {
    const nowMs = performance.now()
    const bytes = this.#deps.moved.fetchedBytes + this.#deps.moved.servedBytes
    const moved = ((bytes - this.#movedBytes) * 1_000) / Math.max(1, nowMs - this.#movedMs)
    this.#movedBytes = bytes
    this.#movedMs = nowMs
    const { maxDelayMs } = this.#deps.rules
    // Asking costs a process: not while nothing moves, and rarely while queues are short.
    const isCalm = this.#yielded.rate === Infinity && this.#yielded.queueMs < maxDelayMs / 2
    if (maxDelayMs === 0 || (isCalm && moved > 0 && nowMs - this.#lookedMs < CALM_MS)) return
    const trips = moved > 0 ? await this.#deps.roundTrips() : []
    if (moved > 0) this.#lookedMs = nowMs
    // Not told this time: what held holds.
    if (trips !== undefined) this.#yielded = this.#yielding.judge(trips, moved)
  }

  #judge(more: readonly TrafficWish[]): void {
    const nowMs = performance.now()
    this.verdict = judgeTraffic(this.#deps.rules, {
      nowMs,
      wishes: [...this.#wishes.current(nowMs), ...more],
      wallClock: new Date(),
      today: this.#deps.day.byLink,
      metered: this.#metered,
      yielded: this.#yielded,
    })
    this.#deps.apply(this.verdict)
  }
}

/** Reads the robot's file: `200` or `200\nteleoperation`; undefined when there is none, nothing at all when it is garbage. */
export async function readTrafficFile(path: string): Promise<TrafficWish | undefined> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch {
    return undefined
  }
  const [first = '', second = ''] = text.slice(0, 1_000).split('\n')
  const kib = /^\d{1,9}$/.test(first.trim()) ? Number(first.trim()) : 0
  const reason = second.trim().slice(0, 200) || 'limited by file'
  return { reason, rate: kib * 1_024, untilMs: Infinity }
}

/** Whether NetworkManager calls the primary connection metered, or guesses so. False where it does not run. */
function isMetered(): Promise<boolean> {
  const name = 'org.freedesktop.NetworkManager'
  const args = ['get-property', name, `/${name.replaceAll('.', '/')}`, name, 'Metered']
  return new Promise((resolve) => {
    execFile('busctl', args, { timeout: 2_000 }, (error, stdout) => resolve(error === null && parseMetered(stdout)))
  })
}

/** NM_METERED_YES is 1, NM_METERED_GUESS_YES 3. @see https://networkmanager.dev/docs/api/latest/nm-dbus-types.html */
export function parseMetered(stdout: string): boolean {
  return /^u [13]\s*$/.test(stdout)
}
