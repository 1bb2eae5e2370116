import { dropOldest } from '../bounded-map.ts'
import type { ChunkIndex } from '../chunks/chunk-index.ts'
import type { RadioHops } from './airtime.ts'
import { Asking } from './asking.ts'
import { Bitmap } from './bitmap.ts'
import { HeldArtifact } from './held-artifact.ts'
import { DEFAULT_LIMITS, type ExchangeLimits } from './limits.ts'
import type { ExchangeMessage } from './messages.ts'
import { Serving } from './serving.ts'

/** What happened: the only way anything gets into the engine. Times are monotonic milliseconds. */
export type ExchangeInput =
  /** `radioHops` is kept when a peer joins again without saying. */
  | { readonly type: 'peer-joined'; readonly peer: string; readonly radioHops?: RadioHops }
  | { readonly type: 'peer-left'; readonly peer: string }
  /** There is a new way to the peer: everything wanted is asked about again, what is under way stays. */
  | { readonly type: 'ask-again'; readonly peer: string }
  /** The stream on which the peer asked was closed: what it asked for is void. */
  | { readonly type: 'asking-ended'; readonly peer: string }
  | { readonly type: 'message'; readonly peer: string; readonly message: ExchangeMessage }
  /** Start (or re-prioritise) getting an artifact; lower `priority` goes first. */
  | { readonly type: 'want-artifact'; readonly index: ChunkIndex; readonly have: Bitmap; readonly priority: number }
  /** Offer an artifact; one that is whole is wanted no more, whatever is lost of it later. */
  | { readonly type: 'offer-artifact'; readonly index: ChunkIndex; readonly have: Bitmap }
  | { readonly type: 'forget-artifact'; readonly artifact: string }
  /** The chunk was verified and is on disk; `from` is undefined when it was found on this device. */
  | {
      readonly type: 'chunk-stored'
      readonly artifact: string
      readonly chunk: number
      readonly from: string | undefined
    }
  | { readonly type: 'chunk-bad'; readonly artifact: string; readonly chunk: number; readonly from: string }
  /** A chunk is not held, or not any more: removed, not taken by any file, or it could not be read back as what it should be. */
  | { readonly type: 'chunk-lost'; readonly artifact: string; readonly chunk: number }
  /** The peer's outgoing stream can take more. */
  | { readonly type: 'sent'; readonly peer: string }
  /** How many bytes per second may be asked for, Infinity for no limit; and peers that are asked for nothing. */
  | { readonly type: 'limit'; readonly receiveRate: number; readonly isClosed: (peer: string) => boolean }
  | { readonly type: 'tick' }

export type ExchangeEffect =
  | { readonly type: 'send'; readonly peer: string; readonly message: ExchangeMessage }
  /** Read the chunk, check it, send it as `chunk`, then report `sent`; when it is not held report `chunk-lost`, and send `reject gone`. */
  | { readonly type: 'serve'; readonly peer: string; readonly artifact: string; readonly chunk: number }
  /** Check the payload, keep it, then report `chunk-stored` or `chunk-bad`. */
  | {
      readonly type: 'store'
      readonly from: string
      readonly artifact: string
      readonly chunk: number
      readonly payload: Uint8Array
    }
  | { readonly type: 'complete'; readonly artifact: string }
  | { readonly type: 'ban'; readonly peer: string; readonly reason: BanReason }

export type BanReason = 'BAD_CHUNKS' | 'UNASKED_CHUNK' | 'BAD_BITMAP' | 'FLOOD'

/**
 * Decides who is asked for which chunk and who is served. No I/O, no clock, no randomness of its own: the same
 * inputs with the same `random` give the same effects. State lives inside; memory is bounded by the limits.
 * `Asking` chooses what to ask of whom, `Serving` what to give to whom; this class knows the artifacts and the peers.
 *
 * Every chunk is verified by the shell before it is kept, offered or served; a peer that sends bad or unasked chunks
 * is banned.
 * @see protocol/spec/exchange.md
 */
export class ExchangeEngine {
  readonly #limits: ExchangeLimits
  readonly #held = new Map<string, HeldArtifact>()
  readonly #peers = new Set<string>()
  readonly #asking: Asking
  readonly #serving: Serving
  /** Bad chunks by peer; kept when it comes and goes. */
  readonly #offences = new Map<string, number>()
  #effects: ExchangeEffect[] = []

  constructor(random: () => number, limits: ExchangeLimits = DEFAULT_LIMITS) {
    this.#limits = limits
    const send = (peer: string, message: ExchangeMessage) => void this.#effects.push({ type: 'send', peer, message })
    this.#asking = new Asking(limits, random, this.#held, {
      send,
      store: (from, artifact, chunk, payload) =>
        void this.#effects.push({ type: 'store', from, artifact, chunk, payload }),
      ban: (peer, reason) => this.#ban(peer, reason),
    })
    this.#serving = new Serving(limits, random, this.#held, {
      send,
      serve: (peer, artifact, chunk) => void this.#effects.push({ type: 'serve', peer, artifact, chunk }),
      flood: (peer) => this.#ban(peer, 'FLOOD'),
      countOf: (peer, artifact) => this.#asking.countOf(peer, artifact),
    })
  }

  /** Takes one input and returns what to do about it, in order. */
  step(input: ExchangeInput, nowMs: number): readonly ExchangeEffect[] {
    this.#effects = []
    this.#asking.at(nowMs)
    this.#serving.at(nowMs)
    this.#take(input)
    // With a limit, time opens room too.
    if (mayOpenRoom(input) || this.#asking.isLimited) this.#asking.fill()
    return this.#effects
  }

  #take(input: ExchangeInput): void {
    switch (input.type) {
      case 'peer-joined':
        this.#peers.add(input.peer)
        this.#serving.joined(input.peer)
        this.#asking.joined(input.peer, input.radioHops)
        break
      case 'peer-left':
        this.#peers.delete(input.peer)
        this.#serving.left(input.peer)
        this.#asking.left(input.peer)
        break
      case 'ask-again':
        this.#asking.askAgain(input.peer)
        break
      case 'asking-ended':
        this.#serving.ended(input.peer)
        break
      case 'message':
        if (this.#peers.has(input.peer)) this.#message(input.peer, input.message)
        break
      case 'want-artifact':
        this.#hold(input.index, input.have, input.priority)
        break
      case 'offer-artifact':
        this.#hold(input.index, input.have, undefined)
        break
      case 'forget-artifact':
        if (!this.#held.has(input.artifact)) break
        this.#asking.forgotten(input.artifact)
        this.#serving.forgotten(input.artifact)
        this.#held.delete(input.artifact)
        break
      case 'chunk-stored':
        this.#stored(input.artifact, input.chunk)
        break
      case 'chunk-bad':
        this.#bad(input.artifact, input.chunk, input.from)
        break
      case 'chunk-lost':
        this.#lost(input.artifact, input.chunk)
        break
      case 'sent':
        this.#serving.sent(input.peer)
        break
      case 'limit':
        this.#asking.limit(input.receiveRate, input.isClosed)
        break
      case 'tick':
        for (const [artifact, held] of this.#held) this.#serving.announce(artifact, held)
        this.#serving.tick()
        this.#asking.tick()
        break
    }
  }

  /** Bytes asked for and not yet here; never above `totalWindowBytes` plus one chunk. */
  get inFlightBytes(): number {
    return this.#asking.inFlightBytes
  }

  /** Nothing is under way to or from the peer. */
  isIdle(peer: string): boolean {
    return this.#asking.isIdle(peer) && this.#serving.isIdle(peer)
  }

  /** What is known of an artifact here, or undefined. */
  progress(artifact: string): { readonly have: number; readonly size: number } | undefined {
    const held = this.#held.get(artifact)
    if (held === undefined) return undefined
    return { have: held.have.count, size: held.have.size }
  }

  #message(peer: string, message: ExchangeMessage): void {
    switch (message.type) {
      case 'ask':
        this.#serving.ask(peer, message.artifact)
        break
      case 'want':
        this.#serving.want(peer, message.artifact, message.chunks)
        break
      case 'want-any':
        this.#serving.wantAny(peer, message.artifact, new Bitmap(message.size, message.bits), message.count)
        break
      case 'cancel':
        this.#serving.cancel(peer, message.artifact, message.chunks)
        break
      case 'have':
        this.#asking.has(peer, message.artifact, message.size, message.bits)
        break
      case 'gained':
      case 'lost':
        this.#asking.changed(peer, message.artifact, message.chunks, message.type === 'gained')
        break
      case 'chunk':
        this.#asking.arrived(peer, message.artifact, message.chunk, message.payload)
        break
      case 'reject':
        this.#asking.rejected(peer, message.artifact, message.chunk, message.code)
        break
      case 'spent':
        this.#asking.spent(peer, message.artifact)
        break
      case 'fetch':
      case 'blob':
      case 'no-blob':
      case 'open-bulk':
      case 'bulk':
        break // the shell's: not about chunks
    }
  }

  #hold(index: ChunkIndex, have: Bitmap, priority: number | undefined): void {
    const artifact = index.id
    const known = this.#held.get(artifact)
    const held = known ?? new HeldArtifact(index, have, undefined)
    const newlyWanted = priority !== undefined && held.priority === undefined
    held.priority = priority ?? (have.complete ? undefined : held.priority)
    if (known === undefined) {
      this.#held.set(artifact, held)
      this.#serving.offered(artifact, held)
    }
    if (newlyWanted) this.#asking.wanted(artifact)
    if (known !== undefined) this.#reconcile(artifact, held, have)
    if (held.have.complete && held.priority !== undefined) this.#effects.push({ type: 'complete', artifact })
  }

  /** What the disk really holds wins over what was believed. */
  #reconcile(artifact: string, held: HeldArtifact, have: Bitmap): void {
    for (let at = 0; at < have.size; at += 1) {
      if (have.has(at)) this.#stored(artifact, at)
      else if (held.lose(at)) this.#serving.lost(artifact, at)
    }
  }

  #stored(artifact: string, chunk: number): void {
    const held = this.#held.get(artifact)
    if (held === undefined) return
    this.#asking.stored(held, chunk)
    if (!held.gain(chunk)) return
    held.gained.push(chunk)
    this.#serving.gained(artifact, held)
    if (held.have.complete) this.#effects.push({ type: 'complete', artifact })
  }

  #lost(artifact: string, chunk: number): void {
    const held = this.#held.get(artifact)
    if (held === undefined) return
    this.#asking.stored(held, chunk)
    if (held.lose(chunk)) this.#serving.lost(artifact, chunk)
  }

  #bad(artifact: string, chunk: number, from: string): void {
    const held = this.#held.get(artifact)
    if (held !== undefined) this.#asking.stored(held, chunk)
    if (!this.#peers.has(from)) return
    const offences = (this.#offences.get(from) ?? 0) + 1
    dropOldest(this.#offences, 1_024)
    this.#offences.set(from, offences)
    this.#asking.changed(from, artifact, [chunk], false) // never asked of this peer again, whatever it says it has
    if (offences >= this.#limits.badChunksBeforeBan) this.#ban(from, 'BAD_CHUNKS')
  }

  #ban(peer: string, reason: BanReason): void {
    this.#take({ type: 'peer-left', peer })
    this.#effects.push({ type: 'ban', peer, reason })
  }
}

/** Whether there may be more to ask for after it. What only concerns serving is half of all inputs. */
function mayOpenRoom(input: ExchangeInput): boolean {
  if (input.type !== 'message') return input.type !== 'sent' && input.type !== 'asking-ended'
  return !['ask', 'want', 'want-any', 'cancel'].includes(input.message.type)
}
