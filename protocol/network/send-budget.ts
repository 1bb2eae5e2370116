import { TokenBucket } from '../exchange/token-bucket.ts'

/** A limit may be lifted at any time: whoever waits looks again after this. */
const LOOK_AGAIN_MS = 500

/** Bytes per second, Infinity for no limit, 0 for nothing. @property isClosed - whether no chunk goes to a peer, or comes from it, now */
export type SendRates = {
  readonly sendRate: number
  readonly perPeerRate: number
  readonly isClosed: (peer: string) => boolean
}

/** How fast chunks may leave: all together, and to each peer. */
export class SendBudget {
  readonly #all = new TokenBucket(Infinity, 0)
  readonly #peers = new Map<string, TokenBucket>()
  #perPeerRate = Infinity
  #isClosed: (peer: string) => boolean = () => false

  limit({ sendRate, perPeerRate, isClosed }: SendRates): void {
    const nowMs = performance.now()
    this.#isClosed = isClosed
    this.#all.setRate(sendRate, nowMs)
    this.#perPeerRate = perPeerRate
    for (const bucket of this.#peers.values()) bucket.setRate(perPeerRate, nowMs)
  }

  /** Waits until both budgets let a chunk go, or nobody wants it any more, and takes it from them. */
  async spend(peer: string, bytes: number, isWanted: () => boolean): Promise<void> {
    const bucket = this.#peers.get(peer) ?? new TokenBucket(this.#perPeerRate, performance.now())
    this.#peers.set(peer, bucket)
    for (;;) {
      const nowMs = performance.now()
      const waitMs = this.#isClosed(peer) ? Infinity : Math.max(this.#all.waitMs(nowMs), bucket.waitMs(nowMs))
      if (waitMs === 0 || !isWanted()) break
      await new Promise((resolve) => setTimeout(resolve, Math.min(waitMs, LOOK_AGAIN_MS)))
    }
    this.#all.take(bytes, performance.now())
    bucket.take(bytes, performance.now())
  }

  gone(peer: string): void {
    this.#peers.delete(peer)
  }
}
