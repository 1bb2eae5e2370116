import type { YieldVerdict } from './yielding.ts'
import { isInside, type MaintenanceWindow } from './reboot-gate.ts'

/** Bytes per second that the agent may send and receive; Infinity for no limit, 0 for nothing. */
export type TrafficLimits = { readonly sendRate: number; readonly receiveRate: number }

/** What the robot asks for at the moment. */
export type TrafficWish = { readonly reason: string; readonly rate: number; readonly untilMs: number }

/** What an owner laid down in `agent.yaml`. Rates in bytes per second. */
export type TrafficRules = {
  readonly sendRate: number
  readonly receiveRate: number
  readonly perPeerRate: number
  readonly quietHours: readonly MaintenanceWindow[]
  readonly quietRate: number
  /** What may be sent and received together on a day; Infinity for no limit. */
  readonly dailyBytes: number
  /** The same for single interfaces. */
  readonly dailyBytesOf: ReadonlyMap<string, number>
  readonly meteredRate: number
  /** Queueing delay on the way to peers that is borne, milliseconds; 0 for any. */
  readonly maxDelayMs: number
}

/** What holds right now. */
export type TrafficConditions = {
  readonly nowMs: number
  readonly wishes: readonly TrafficWish[]
  readonly wallClock: Date
  /** By interface. */
  readonly today: ReadonlyMap<string, number>
  readonly metered: boolean
  /** What round trips speak for. */
  readonly yielded: YieldVerdict
}

/** Limits with the reason of each; no reasons when nothing is limited. */
export type TrafficVerdict = TrafficLimits & {
  readonly reasons: readonly string[]
  /** Interfaces over which no chunk moves today any more. */
  readonly closedLinks: ReadonlySet<string>
}

/**
 * How fast chunks may move now: the least of everything that applies. Pure. Metadata, records and halts are not
 * limited: they are small, and they are what stops a bad release.
 */
export function judgeTraffic(rules: TrafficRules, conditions: TrafficConditions): TrafficVerdict {
  const reasons: string[] = []
  let { sendRate, receiveRate } = rules
  if (sendRate !== Infinity) reasons.push(`send ${describeRate(sendRate)}: agent.yaml`)
  if (receiveRate !== Infinity) reasons.push(`receive ${describeRate(receiveRate)}: agent.yaml`)
  const limit = (rate: number, why: string) => {
    sendRate = Math.min(sendRate, rate)
    receiveRate = Math.min(receiveRate, rate)
    reasons.push(`${describeRate(rate)}: ${why}`)
  }
  for (const wish of conditions.wishes) if (wish.untilMs > conditions.nowMs) limit(wish.rate, wish.reason)
  if (rules.quietHours.some((window) => isInside(window, conditions.wallClock))) limit(rules.quietRate, 'quiet hours')
  if (conditions.metered && rules.meteredRate !== Infinity) limit(rules.meteredRate, 'metered connection')
  const todayBytes = [...conditions.today.values()].reduce((sum, bytes) => sum + bytes, 0)
  if (todayBytes >= rules.dailyBytes) limit(0, 'daily budget is used up')
  const spent = [...rules.dailyBytesOf].filter(([name, most]) => (conditions.today.get(name) ?? 0) >= most)
  for (const [name] of spent) reasons.push(`nothing over ${name}: its daily budget is used up`)
  const { rate, queueMs } = conditions.yielded
  if (rate !== Infinity) limit(rate, `round trips rose by ${Math.round(queueMs)} ms`)
  return { sendRate, receiveRate, reasons, closedLinks: new Set(spent.map(([name]) => name)) }
}

function describeRate(rate: number): string {
  return rate === 0 ? 'nothing' : `${Math.round(rate / 1_024)} KiB/s`
}
