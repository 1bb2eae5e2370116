import { dropOldest } from '../bounded-map.ts'

/** What one key may do: so many times at once, and so often in the long run. */
export type AllowanceLimits = { readonly burst: number; readonly perSecond: number }

/** Keys that are remembered; beyond it the one that was idle longest starts anew. */
const MAX_KEYS = 4_096

/** Counts how often each of many keys (peers, authors) does something. Pure but for its own state, which is bounded. */
export class Allowance {
  readonly #limits: AllowanceLimits
  readonly #left = new Map<string, { count: number; atMs: number }>()

  constructor(limits: AllowanceLimits) {
    this.#limits = limits
  }

  /** Takes `count` from what the key has left. False when it has used up what it may: nothing is taken then. */
  spend(key: string, nowMs: number, count = 1): boolean {
    const { burst, perSecond } = this.#limits
    const before = this.#left.get(key) ?? { count: burst, atMs: nowMs }
    const left = Math.min(burst, before.count + (Math.max(0, nowMs - before.atMs) * perSecond) / 1_000)
    const allowed = left >= count
    this.#left.delete(key) // to the end of the order: idle longest is first
    this.#left.set(key, { count: allowed ? left - count : left, atMs: nowMs })
    dropOldest(this.#left, MAX_KEYS)
    return allowed
  }
}
