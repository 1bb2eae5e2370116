/**
 * A rate with a burst. Pure but for its own state; time is an argument (monotonic milliseconds). A single piece may be
 * larger than the burst: the bucket then goes below zero and the next piece waits longer, so that the rate holds on
 * average and nothing is stuck.
 */
export class TokenBucket {
  #bytesPerSecond: number
  #tokens: number
  #atMs: number

  /** @param bytesPerSecond - Infinity for no limit, 0 lets nothing through */
  constructor(bytesPerSecond: number, nowMs: number) {
    this.#bytesPerSecond = bytesPerSecond
    this.#tokens = this.#burst()
    this.#atMs = nowMs
  }

  /** Changes the rate; what was saved up is kept up to the new burst. */
  setRate(bytesPerSecond: number, nowMs: number): void {
    this.#refill(nowMs)
    this.#bytesPerSecond = bytesPerSecond
    this.#tokens = Math.min(this.#tokens, this.#burst())
  }

  /** Bytes that may go now; at or below 0 nothing may. */
  available(nowMs: number): number {
    this.#refill(nowMs)
    return this.#bytesPerSecond === 0 ? 0 : this.#tokens
  }

  take(bytes: number, nowMs: number): void {
    this.#refill(nowMs)
    if (this.#bytesPerSecond !== Infinity) this.#tokens -= bytes
  }

  /** Milliseconds until something may go; 0 now, Infinity while the rate is 0. */
  waitMs(nowMs: number): number {
    if (this.available(nowMs) > 0) return 0
    return this.#bytesPerSecond === 0 ? Infinity : Math.ceil(((1 - this.#tokens) * 1_000) / this.#bytesPerSecond)
  }

  /** A twentieth of a second, at least one small chunk: more would be a jerk in the robot's video. */
  #burst(): number {
    return this.#bytesPerSecond === Infinity ? Infinity : Math.max(65_536, this.#bytesPerSecond / 20)
  }

  #refill(nowMs: number): void {
    const elapsedMs = Math.max(0, nowMs - this.#atMs)
    this.#atMs = nowMs
    if (this.#bytesPerSecond === Infinity) this.#tokens = Infinity
    else this.#tokens = Math.min(this.#burst(), this.#tokens + (elapsedMs * this.#bytesPerSecond) / 1_000)
  }
}
