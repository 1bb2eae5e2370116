/** One connection on which data moved just now, as the kernel sees it. */
export type RoundTrip = {
  /** Smoothed round-trip time. */
  readonly rttMs: number
  /** The least that was seen in some minutes: the way without queues. */
  readonly leastMs: number
  /** Bytes that moved on it, in both directions, since the last look. */
  readonly movedBytes: number
}

/** How fast to go so that queues stay short. `Infinity` while nothing speaks against it. */
export type YieldVerdict = { readonly rate: number; readonly queueMs: number }

/** Never slower: a transfer that stands still finds out nothing. Bytes per second. */
const FLOOR = 65_536
/** Above it the limit is no longer felt. */
const CEILING = 2 ** 30

/**
 * Backs off when round trips rise: what waits in queues on the way is what the robot's own packets wait behind. Cuts the
 * rate in proportion to the excess, at most by half at a time, and grows it by a quarter while the queue is short. Pure but for its own state.
 * @see RFC 6817 (LEDBAT), section 2.4: a target of queueing delay of at most 100 ms
 */
export class Yielding {
  readonly #targetMs: number
  #rate = Infinity

  /** @param targetMs - queueing delay that is borne; 0 never yields */
  constructor(targetMs: number) {
    this.#targetMs = targetMs
  }

  /**
   * Takes a second's observations.
   * @param moved - bytes per second that were sent and received in it
   */
  judge(trips: readonly RoundTrip[], moved: number): YieldVerdict {
    const queueMs = middleQueueMs(trips)
    if (this.#targetMs === 0) this.#rate = Infinity
    else if (queueMs > this.#targetMs) {
      this.#rate = Math.max(FLOOR, Math.min(this.#rate, moved) * Math.max(0.5, this.#targetMs / queueMs))
    } else if (this.#rate !== Infinity && queueMs < this.#targetMs / 2) {
      // Also when nothing was seen: a limit so low that chunks are seconds apart must not forget itself.
      this.#rate *= 1.25
      if (this.#rate > CEILING) this.#rate = Infinity
    }
    return { rate: this.#rate, queueMs }
  }
}

/**
 * The queueing delay that half of the moved bytes met, or more: one neighbour that answers late on purpose, or sleeps, is not
 * the link, and connections at rest say nothing about it.
 */
function middleQueueMs(trips: readonly RoundTrip[]): number {
  const queues = trips
    .map(({ rttMs, leastMs, movedBytes }) => ({ queueMs: Math.max(0, rttMs - leastMs), movedBytes }))
    .sort((a, b) => b.queueMs - a.queueMs)
  const half = queues.reduce((sum, { movedBytes }) => sum + movedBytes, 0) / 2
  let bytes = 0
  for (const { queueMs, movedBytes } of queues) {
    bytes += movedBytes
    if (movedBytes > 0 && bytes >= half) return queueMs
  }
  return 0
}
