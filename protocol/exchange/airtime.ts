/** Radio hops between this device and a peer: the station's and the peer's own. Two stations of one access point share its air. */
export type RadioHops = 0 | 1 | 2

/** What is known of a source. */
export type HopSource = {
  readonly radioHops: RadioHops
  /** It was asked, or others are not because it is about to have what they have. */
  readonly isWaitedFor: boolean
  readonly bytesThisSecond: number
}

/** Nearer sources that bring less than this together, bytes per second, for so many seconds do not keep others from being asked. */
const LEAST_RATE = 131_072
const PATIENCE = 3

/**
 * Judges whether sources with fewer radio hops are to be waited for. What crosses the air between two stations takes it up
 * twice, so a wired holder goes first (facts/distribution.md 2.2 and 3.5); but one that hardly sends anything, whatever the
 * reason, must not hold a device up.
 */
export class Airtime {
  /** Seconds in a row in which the sources with fewer hops than the index brought too little. */
  readonly #slowSeconds: [number, number, number] = [0, 0, 0]

  /**
   * Takes stock; call once a second, before the counts of bytes begin anew.
   * @param mostRate - bytes per second that this device lets come at all
   */
  tick(sources: readonly HopSource[], elapsedMs: number, mostRate: number): void {
    for (const hops of [1, 2] as const) {
      const nearer = sources.filter((source) => source.radioHops < hops)
      const bytes = nearer.reduce((sum, source) => sum + source.bytesThisSecond, 0)
      const isSlow =
        nearer.some(({ isWaitedFor }) => isWaitedFor) &&
        (bytes * 1_000) / elapsedMs < Math.min(LEAST_RATE, mostRate / 2)
      this.#slowSeconds[hops] = isSlow ? this.#slowSeconds[hops] + 1 : 0
    }
  }

  /** Whether a chunk that a source with fewer hops holds is left to that one. */
  spares(hops: RadioHops): boolean {
    return this.#slowSeconds[hops] < PATIENCE
  }
}
