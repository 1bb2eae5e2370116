import type { Connection } from '@libp2p/interface'

type Waiter = {
  readonly isDone: () => boolean
  /** Whether a refusal that was heard of ends the waiting: it may have been about another connection. */
  readonly isOver: () => boolean
  readonly settle: (admitted: boolean) => void
}

/** More at once than any honest peer has in the middle of its hello: those beyond are turned away. */
const MAX_WAITERS = 64

/** Knows which connections have shown a good certificate, and lets others wait for that. */
export class Admissions {
  readonly #timeoutMs: number
  readonly #admitted = new WeakSet<Connection>()
  readonly #waiters = new Map<string, readonly Waiter[]>()

  /** @param timeoutMs - how long anybody waits */
  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs
  }

  admit(connection: Connection): void {
    this.#admitted.add(connection)
  }

  /** True once this very connection has shown a certificate: that its peer is a member over another says nothing. */
  waitForConnection(connection: Connection): Promise<boolean> {
    const isDone = () => this.#admitted.has(connection)
    const isOver = () => connection.status !== 'open'
    if (isOver()) return Promise.resolve(isDone())
    return this.#wait(connection.remotePeer.toString(), { isDone, isOver })
  }

  /** True once the peer is a member, false when it was refused or took too long. */
  waitForPeer(peer: string, isMember: () => boolean): Promise<boolean> {
    return this.#wait(peer, { isDone: isMember, isOver: () => true })
  }

  /** Something was decided about the peer: whoever waits for it looks again. */
  decided(peer: string): void {
    for (const { isDone, isOver, settle } of this.#waiters.get(peer) ?? []) {
      if (isDone()) settle(true)
      else if (isOver()) settle(false)
    }
  }

  #wait(peer: string, { isDone, isOver }: Omit<Waiter, 'settle'>): Promise<boolean> {
    if (isDone()) return Promise.resolve(true)
    const waiting = this.#waiters.get(peer) ?? []
    if (waiting.length >= MAX_WAITERS) return Promise.resolve(false)
    return new Promise((resolve) => {
      const timer = setTimeout(() => settle(isDone()), this.#timeoutMs)
      timer.unref()
      const settle = (admitted: boolean) => {
        clearTimeout(timer)
        const left = (this.#waiters.get(peer) ?? []).filter((other) => other !== waiter)
        if (left.length > 0) this.#waiters.set(peer, left)
        else this.#waiters.delete(peer)
        resolve(admitted)
      }
      const waiter = { isDone, isOver, settle }
      this.#waiters.set(peer, [...waiting, waiter])
    })
  }
}
