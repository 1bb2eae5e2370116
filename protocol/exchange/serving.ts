import type { Bitmap } from './bitmap.ts'
import type { HeldArtifact } from './held-artifact.ts'
import type { ExchangeLimits } from './limits.ts'
import type { ExchangeMessage } from './messages.ts'

/** A wish of a peer: one chunk, or `left` of those in a bitmap as the source likes. */
type Wish = { readonly artifact: string; readonly chunk: number } | AnyWish
type AnyWish = { readonly artifact: string; readonly any: Bitmap; left: number }

type Asker = {
  readonly asked: Set<string>
  readonly queue: Wish[]
  /** When the chunk that is under way to it was begun. */
  servingSinceMs: number | undefined
  /** Rises with every chunk that is begun: the larger, the more recently it was served. */
  turn: number
}

export type ServingEffects = {
  readonly send: (peer: string, message: ExchangeMessage) => void
  readonly serve: (peer: string, artifact: string, chunk: number) => void
  readonly flood: (peer: string) => void
  /** How many chunks of an artifact a peer holds, as far as is known. */
  readonly countOf: (peer: string, artifact: string) => number
}

/**
 * Gained chunks are told when this share of the artifact has gathered (never more than 32 chunks), else with the next tick.
 * Fresh news is what keeps peers off the seed: told one by one, eight devices finish at 1.03 of the bound, in eights at
 * 1.17 (simulated, 256 chunks); but each message costs its senders some 50 µs.
 */
const ANNOUNCE_SHARE = 1 / 256

/**
 * Chunks go to so many peers at once, and to those first that have the fewest: it is the last one to finish that counts
 * (100 devices on a sparse mesh: 1.15 of the bound instead of 1.35, simulated).
 */
const MAX_UPLOADS = 8
/** A peer that takes longer for a chunk is slow or silent, and does not keep others waiting. */
const SLOW_MS = 2_000

/**
 * The answering side of the exchange: who wants what, and which chunk leaves next. One chunk is under way to each peer.
 * Where the source may choose, it gives a chunk that it has given to nobody, so that a lone source sends every chunk once
 * before it sends any twice.
 * @see facts/distribution.md 2.4: with that, rarest-first stays within 1.01–1.10 of the bound
 */
export class Serving {
  readonly #limits: ExchangeLimits
  readonly #random: () => number
  readonly #held: ReadonlyMap<string, HeldArtifact>
  readonly #effects: ServingEffects
  readonly #askers = new Map<string, Asker>()
  #nowMs = 0
  #turns = 0

  constructor(
    limits: ExchangeLimits,
    random: () => number,
    held: ReadonlyMap<string, HeldArtifact>,
    effects: ServingEffects,
  ) {
    this.#limits = limits
    this.#random = random
    this.#held = held
    this.#effects = effects
  }

  at(nowMs: number): void {
    this.#nowMs = nowMs
  }

  isIdle(peer: string): boolean {
    const asker = this.#askers.get(peer)
    return asker === undefined || (asker.queue.length === 0 && asker.servingSinceMs === undefined)
  }

  /** Served again once some time has passed: a slow peer no longer counts. */
  tick(): void {
    this.#serveNext()
  }

  joined(peer: string): void {
    // Our own stream to it was opened anew; what it asked on its stream still holds.
    if (!this.#askers.has(peer))
      this.#askers.set(peer, { asked: new Set(), queue: [], servingSinceMs: undefined, turn: 0 })
  }

  left(peer: string): void {
    this.#askers.delete(peer)
    this.#serveNext()
  }

  /** The stream on which the peer asked was closed: what it asked is void. */
  ended(peer: string): void {
    const asker = this.#askers.get(peer)
    if (asker === undefined) return
    asker.asked.clear()
    asker.queue.splice(0)
  }

  ask(peer: string, artifact: string): void {
    const asker = this.#askers.get(peer)
    if (asker === undefined) return
    if (asker.asked.size >= this.#limits.asksPerPeer) return this.#effects.flood(peer)
    asker.asked.add(artifact)
    const held = this.#held.get(artifact)
    if (held !== undefined) this.#sendHave(peer, held)
  }

  /** Every one of the chunks is wanted. */
  want(peer: string, artifact: string, chunks: readonly number[]): void {
    const asker = this.#askers.get(peer)
    const held = this.#held.get(artifact)
    for (const chunk of chunks) {
      if (held?.have.has(chunk) !== true) this.#reject(peer, artifact, chunk, 'gone')
      else if (asker === undefined || asker.queue.length >= this.#limits.queuePerPeer)
        this.#reject(peer, artifact, chunk, 'busy')
      else asker.queue.push({ artifact, chunk })
    }
    this.#serveNext()
  }

  /** `count` chunks of the bitmap are wanted, whichever were given to nobody. A newer such wish replaces the older. */
  wantAny(peer: string, artifact: string, any: Bitmap, count: number): void {
    const asker = this.#askers.get(peer)
    const held = this.#held.get(artifact)
    if (asker === undefined) return
    if (held === undefined || any.size !== held.have.size) return this.#spent(peer, artifact)
    const at = asker.queue.findIndex((wish) => 'any' in wish && wish.artifact === artifact)
    const before = asker.queue[at]
    const left = Math.min(
      this.#limits.queuePerPeer,
      count + (before !== undefined && 'any' in before ? before.left : 0),
    )
    if (at >= 0) asker.queue[at] = { artifact, any, left }
    else if (asker.queue.length >= this.#limits.queuePerPeer) this.#spent(peer, artifact)
    else asker.queue.push({ artifact, any, left })
    this.#serveNext()
  }

  cancel(peer: string, artifact: string, chunks: readonly number[]): void {
    const asker = this.#askers.get(peer)
    for (const chunk of chunks) {
      const at = asker?.queue.findIndex((wish) => wish.artifact === artifact && 'chunk' in wish && wish.chunk === chunk)
      if (at !== undefined && at >= 0) asker?.queue.splice(at, 1)
    }
  }

  /** The peer's stream takes more. */
  sent(peer: string): void {
    const asker = this.#askers.get(peer)
    if (asker === undefined) return
    asker.servingSinceMs = undefined
    this.#serveNext()
  }

  /** Tells everyone who asked what an artifact has, now that it is here. */
  offered(artifact: string, held: HeldArtifact): void {
    for (const [peer, asker] of this.#askers) if (asker.asked.has(artifact)) this.#sendHave(peer, held)
  }

  forgotten(artifact: string): void {
    this.#tell(artifact, { type: 'have', artifact, size: 0, bits: new Uint8Array() })
  }

  lost(artifact: string, chunk: number): void {
    this.#tell(artifact, { type: 'lost', artifact, chunks: [chunk] })
  }

  gained(artifact: string, held: HeldArtifact): void {
    const enough = Math.min(32, Math.max(1, Math.floor(held.index.count * ANNOUNCE_SHARE)))
    if (held.gained.length >= enough || held.have.complete) this.announce(artifact, held)
  }

  announce(artifact: string, held: HeldArtifact): void {
    const chunks = held.gained.splice(0)
    for (let at = 0; at < chunks.length; at += 512) {
      this.#tell(artifact, { type: 'gained', artifact, chunks: chunks.slice(at, at + 512) })
    }
  }

  #tell(artifact: string, message: ExchangeMessage): void {
    for (const [peer, asker] of this.#askers) if (asker.asked.has(artifact)) this.#effects.send(peer, message)
  }

  #sendHave(peer: string, { index, have }: HeldArtifact): void {
    this.#effects.send(peer, { type: 'have', artifact: index.id, size: have.size, bits: have.bytes.slice() })
  }

  #reject(peer: string, artifact: string, chunk: number, code: 'gone' | 'busy'): void {
    this.#effects.send(peer, { type: 'reject', artifact, chunk, code })
  }

  #spent(peer: string, artifact: string): void {
    this.#effects.send(peer, { type: 'spent', artifact })
  }

  #serveNext(): void {
    for (let next = this.#neediest(); next !== undefined; next = this.#neediest()) this.#serve(next)
  }

  /**
   * The peer that is served next, or undefined when nobody waits or enough is under way. Of those with as few chunks, the one
   * that waited longest: a source that wants nothing itself is not told how many they have.
   */
  #neediest(): string | undefined {
    let uploads = 0
    let neediest: string | undefined
    let fewest = Infinity
    let leastTurn = Infinity
    for (const [peer, { queue, servingSinceMs, turn }] of this.#askers) {
      if (servingSinceMs !== undefined) uploads += this.#nowMs - servingSinceMs < SLOW_MS ? 1 : 0
      else if (queue[0] !== undefined) {
        const count = this.#effects.countOf(peer, queue[0].artifact)
        if (count > fewest || (count === fewest && turn > leastTurn)) continue
        fewest = count
        leastTurn = turn
        neediest = peer
      }
    }
    return uploads < MAX_UPLOADS ? neediest : undefined
  }

  #serve(peer: string): void {
    const asker = this.#askers.get(peer)
    if (asker === undefined) return
    for (let wish = asker.queue[0]; wish !== undefined; wish = asker.queue[0]) {
      const chunk = 'any' in wish ? this.#choose(peer, wish) : wish.chunk
      if (!('any' in wish) || wish.left <= 0 || chunk === undefined) asker.queue.shift()
      const held = this.#held.get(wish.artifact)
      if (chunk === undefined) continue
      if (held?.have.has(chunk) !== true) {
        this.#reject(peer, wish.artifact, chunk, 'gone')
        continue
      }
      held.give(chunk)
      asker.servingSinceMs = this.#nowMs
      asker.turn = this.#turns += 1
      this.#effects.serve(peer, wish.artifact, chunk)
      return
    }
  }

  #choose(peer: string, wish: AnyWish): number | undefined {
    const chunk = this.#held.get(wish.artifact)?.takeUngiven(wish.any, this.#random)
    if (chunk === undefined) this.#spent(peer, wish.artifact)
    wish.left -= 1
    return chunk
  }
}
