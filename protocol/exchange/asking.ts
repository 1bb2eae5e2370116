import { Airtime, type RadioHops } from './airtime.ts'
import { Bitmap } from './bitmap.ts'
import { chooseChunks } from './choose-chunks.ts'
import type { HeldArtifact } from './held-artifact.ts'
import type { ExchangeLimits } from './limits.ts'
import type { ExchangeMessage, RejectCode } from './messages.ts'
import { TokenBucket } from './token-bucket.ts'

/**
 * What was asked of a peer. One chunk by number, or `left` chunks as the source likes: then which they are is not known
 * here, and nothing is kept from being asked of others.
 */
type Request = {
  readonly artifact: string
  /** Or ANY. */
  readonly chunk: number
  readonly bytesEach: number
  sinceMs: number
  left: number
  /** Free to be asked of others; still in the window of the peer, since it may come. */
  abandoned: boolean
}

type Source = {
  readonly has: Map<string, Bitmap>
  /** By artifact, then by chunk, or ANY. Numbers: building a text for each look was a fifth of the cost of a transfer. */
  readonly requests: Map<string, Map<number, Request>>
  /** Artifacts of which the source has given everything to somebody: it is asked by number. */
  readonly spent: Set<string>
  inFlightBytes: number
  windowBytes: number
  lastChunkMs: number
  bytesThisSecond: number
  unaskedBytes: number
  /** When it last told of a chunk that it had gained. */
  gainedMs: number
  readonly radioHops: RadioHops
}

export type AskingEffects = {
  readonly send: (peer: string, message: ExchangeMessage) => void
  readonly store: (from: string, artifact: string, chunk: number, payload: Uint8Array) => void
  readonly ban: (peer: string, reason: 'UNASKED_CHUNK' | 'BAD_BITMAP') => void
}

/** Two windows of chunks that crossed a cancel are innocent. */
const MAX_UNASKED_BYTES = 4 * 2 ** 20
/** In place of a chunk number: whichever the source likes. */
const ANY = -1
/** With so few chunks left it is better to choose oneself, and a chunk may be asked of a second peer: the tail of a transfer
 *  must not wait for one slow link. */
const ENDGAME_CHUNKS = 20
/** A source that gained a chunk no longer ago is taken to be about to have the next, too. */
const GAINING_MS = 1_000
/** With something wanted and nothing asked for or come for so long, what is known of the sources may be out of date. */
const QUIET_MS = 30_000
/** Candidates that are ranked by rarity for one question. */
const SAMPLE = 256

/**
 * The asking side of the exchange: whom to ask for which chunk. Rarest chunk first with random ties; a window of bytes
 * per peer that follows its rate; a chunk is asked of one peer, and of two only in the endgame. A source of everything
 * chooses itself, as long as it has something that it gave to nobody: only it can know. What a source with fewer radio
 * hops holds is left to it.
 * @see protocol/spec/exchange.md, "Rules of the asking side"
 */
export class Asking {
  readonly #limits: ExchangeLimits
  readonly #random: () => number
  readonly #held: ReadonlyMap<string, HeldArtifact>
  readonly #effects: AskingEffects
  readonly #sources = new Map<string, Source>()
  #nowMs = 0
  #lastRateMs = 0
  /** When something was last asked for, or came. */
  #movedMs = 0
  #totalInFlight = 0
  readonly #budget = new TokenBucket(Infinity, 0)
  readonly #airtime = new Airtime()
  #isClosed: (peer: string) => boolean = () => false
  #receiveRate = Infinity

  constructor(
    limits: ExchangeLimits,
    random: () => number,
    held: ReadonlyMap<string, HeldArtifact>,
    effects: AskingEffects,
  ) {
    this.#limits = limits
    this.#random = random
    this.#held = held
    this.#effects = effects
  }

  /** Bytes per second that may be asked for, and peers that are asked for nothing: what is not asked does not come. */
  limit(receiveRate: number, isClosed: (peer: string) => boolean): void {
    this.#budget.setRate(receiveRate, this.#nowMs)
    this.#isClosed = isClosed
    this.#receiveRate = receiveRate
  }

  get isLimited(): boolean {
    return this.#receiveRate !== Infinity
  }

  /** Bytes asked for and not yet on disk. */
  get inFlightBytes(): number {
    return this.#totalInFlight
  }

  at(nowMs: number): void {
    this.#nowMs = nowMs
  }

  isIdle(peer: string): boolean {
    return (this.#sources.get(peer)?.requests.size ?? 0) === 0
  }

  /** How many chunks of an artifact a peer said it holds; 0 when it was not asked. */
  countOf(peer: string, artifact: string): number {
    return this.#sources.get(peer)?.has.get(artifact)?.count ?? 0
  }

  /**
   * A stream for questions is open: everything wanted is asked about.
   * @param hops - undefined: as before, or none
   */
  joined(peer: string, hops: RadioHops | undefined): void {
    const unaskedBytes = this.#sources.get(peer)?.unaskedBytes ?? 0
    const radioHops = hops ?? this.#sources.get(peer)?.radioHops ?? 0
    this.left(peer)
    this.#sources.set(peer, {
      has: new Map(),
      requests: new Map(),
      spent: new Set(),
      inFlightBytes: 0,
      windowBytes: this.#limits.startWindowBytes,
      lastChunkMs: this.#nowMs,
      bytesThisSecond: 0,
      unaskedBytes,
      gainedMs: -Infinity,
      radioHops,
    })
    this.askAgain(peer)
  }

  askAgain(peer: string): void {
    for (const [artifact, held] of this.#held) {
      if (held.priority !== undefined) this.#effects.send(peer, { type: 'ask', artifact })
    }
  }

  left(peer: string): void {
    const source = this.#sources.get(peer)
    if (source === undefined) return
    for (const request of allOf(source)) this.#end(peer, source, request)
    for (const [artifact, bits] of source.has) this.#held.get(artifact)?.countAvailability(bits, -1)
    this.#sources.delete(peer)
  }

  wanted(artifact: string): void {
    for (const peer of this.#sources.keys()) this.#effects.send(peer, { type: 'ask', artifact })
  }

  forgotten(artifact: string): void {
    for (const [peer, source] of this.#sources) {
      for (const request of [...(source.requests.get(artifact)?.values() ?? [])]) {
        this.#cancel(peer, request)
        this.#end(peer, source, request)
      }
      source.has.delete(artifact)
      source.spent.delete(artifact)
    }
    const held = this.#held.get(artifact)
    if (held !== undefined) for (const chunk of [...held.storing.keys()]) this.stored(held, chunk)
  }

  has(peer: string, artifact: string, size: number, bits: Uint8Array): void {
    const source = this.#sources.get(peer)
    const held = this.#held.get(artifact)
    if (source === undefined || held === undefined) return // not asked any more
    if (size !== 0 && size !== held.index.count) return this.#effects.ban(peer, 'BAD_BITMAP')
    const before = source.has.get(artifact)
    if (before !== undefined) held.countAvailability(before, -1)
    const after = new Bitmap(held.index.count, size === 0 ? undefined : bits.slice())
    source.has.set(artifact, after)
    held.countAvailability(after, 1)
  }

  changed(peer: string, artifact: string, chunks: readonly number[], gained: boolean): void {
    const source = this.#sources.get(peer)
    const bits = source?.has.get(artifact)
    const held = this.#held.get(artifact)
    if (source === undefined || bits === undefined || held === undefined) return
    if (gained) source.gainedMs = this.#nowMs
    for (const chunk of chunks) {
      if (gained ? bits.add(chunk) : bits.remove(chunk)) held.addAvailability(chunk, gained ? 1 : -1)
    }
  }

  arrived(peer: string, artifact: string, chunk: number, payload: Uint8Array): void {
    const source = this.#sources.get(peer)
    if (source === undefined) return
    const held = this.#held.get(artifact)
    const exists = held === undefined || chunk < held.index.count
    const request = exists ? find(source, artifact, chunk) : undefined
    if (request === undefined) return this.#unasked(peer, source, payload)
    source.lastChunkMs = this.#nowMs
    this.#movedMs = this.#nowMs
    source.bytesThisSecond += payload.length
    this.#reduce(source, request, request.left - 1)
    if (request.left === 0) this.#end(peer, source, request)
    if (held === undefined) return
    if (held.have.has(chunk) || held.storing.has(chunk)) {
      // A source that chooses must not choose what is here, over and over.
      if (request.chunk === ANY) this.#unasked(peer, source, payload)
      return
    }
    source.unaskedBytes = Math.max(0, source.unaskedBytes - payload.length / 4)
    for (const other of [...(held.requests.get(chunk) ?? [])]) this.#withdraw(other, artifact, chunk)
    held.beginStoring(chunk, payload.length)
    this.#totalInFlight += payload.length // until it is on disk it takes up memory
    this.#effects.store(peer, artifact, chunk, payload)
  }

  /** A cancel may have crossed it; a peer that goes on sending what nobody asked for is another matter. */
  #unasked(peer: string, source: Source, payload: Uint8Array): void {
    source.unaskedBytes += payload.length
    if (source.unaskedBytes > MAX_UNASKED_BYTES) this.#effects.ban(peer, 'UNASKED_CHUNK')
  }

  /** The chunk was written, or will not be. */
  stored(held: HeldArtifact, chunk: number): void {
    this.#totalInFlight -= held.endStoring(chunk)
  }

  rejected(peer: string, artifact: string, chunk: number, code: RejectCode): void {
    const source = this.#sources.get(peer)
    if (source === undefined) return
    const request = find(source, artifact, chunk)
    if (request !== undefined && request.chunk !== ANY) this.#end(peer, source, request)
    if (code === 'busy') this.#slowDown(source)
    else this.changed(peer, artifact, [chunk], false)
  }

  /** The source has nothing left to choose from: what was asked that way does not come. */
  spent(peer: string, artifact: string): void {
    const source = this.#sources.get(peer)
    if (source === undefined) return
    source.spent.add(artifact)
    const request = source.requests.get(artifact)?.get(ANY)
    if (request !== undefined) this.#end(peer, source, request)
  }

  tick(): void {
    const elapsedMs = this.#nowMs - this.#lastRateMs
    if (elapsedMs >= 1_000) {
      const sources = [...this.#sources.values()]
      const seen = sources.map((source) => ({
        radioHops: source.radioHops,
        bytesThisSecond: source.bytesThisSecond,
        isWaitedFor: source.inFlightBytes > 0 || this.#isGaining(source),
      }))
      this.#airtime.tick(seen, elapsedMs, this.#receiveRate)
      for (const source of sources) this.#adapt(source, elapsedMs)
      this.#lastRateMs = this.#nowMs
    }
    for (const [peer, source] of this.#sources) {
      if (this.#nowMs - source.lastChunkMs < this.#limits.requestTimeoutMs) continue
      for (const request of allOf(source)) this.#expire(peer, source, request)
    }
    if (this.#receiveRate === 0) this.#movedMs = this.#nowMs // it is quiet since it should be
    if (this.#nowMs - this.#movedMs < QUIET_MS) return
    this.#movedMs = this.#nowMs
    for (const [artifact] of this.#lacking()) this.wanted(artifact)
  }

  /** What is wanted and not whole. */
  #lacking(): [string, HeldArtifact][] {
    return [...this.#held].filter(([, held]) => held.priority !== undefined && !held.have.complete)
  }

  #adapt(source: Source, elapsedMs: number): void {
    const rate = (source.bytesThisSecond * 1_000) / elapsedMs
    source.bytesThisSecond = 0
    if (rate === 0) return
    // A fifth of a second of the peer's rate, moved half-way each second so that one pause does not empty the pipe.
    const wanted = Math.min(this.#limits.maxWindowBytes, Math.max(this.#limits.minWindowBytes, rate * 0.2))
    source.windowBytes = (source.windowBytes + wanted) / 2
  }

  #slowDown(source: Source): void {
    source.windowBytes = Math.max(65_536, source.windowBytes / 2)
  }

  #expire(peer: string, source: Source, request: Request): void {
    const ageMs = this.#nowMs - request.sinceMs
    if (ageMs < this.#limits.requestTimeoutMs) return
    if (!request.abandoned) {
      request.abandoned = true
      this.#unrequest(peer, request)
      this.#slowDown(source)
    } else if (ageMs > this.#limits.requestTimeoutMs * 4) {
      this.#cancel(peer, request)
      this.#end(peer, source, request)
    }
  }

  /** Fills every peer's window. Wanted artifacts in order of priority, rarest chunk first. */
  fill(): void {
    const wanted = this.#lacking().sort(([, a], [, b]) => (a.priority ?? 0) - (b.priority ?? 0))
    if (wanted.length === 0 || this.#budget.available(this.#nowMs) <= 0) return
    for (const [peer, source] of this.#sources) {
      // Asked again when half of the window is empty: a message for every other chunk, not for each.
      if (source.inFlightBytes > source.windowBytes * 0.5 || this.#isClosed(peer)) continue
      for (const [artifact, held] of wanted) {
        const has = this.#worthAsking(source, artifact)
        if (has === undefined || has.count === 0) continue
        this.#ask(peer, source, artifact, held, has)
        if (source.inFlightBytes >= source.windowBytes) break
      }
    }
  }

  /** What a source has, but for what others with fewer radio hops have, or are about to have. */
  #worthAsking(source: Source, artifact: string): Bitmap | undefined {
    const has = source.has.get(artifact)
    if (has === undefined || !this.#airtime.spares(source.radioHops)) return has
    const nearer: Bitmap[] = []
    for (const [peer, other] of this.#sources) {
      const theirs = other.radioHops < source.radioHops ? other.has.get(artifact) : undefined
      if (theirs === undefined || this.#isClosed(peer)) continue
      if (!theirs.complete && this.#isGaining(other)) return undefined
      nearer.push(theirs)
    }
    return nearer.length === 0 ? has : has.without(nearer)
  }

  /** What it gained is told by it and by those that have it from it, in whichever order the news arrives. */
  #isGaining({ gainedMs }: Source): boolean {
    return this.#nowMs - gainedMs < GAINING_MS
  }

  #ask(peer: string, source: Source, artifact: string, held: HeldArtifact, has: Bitmap): void {
    const roomBytes = Math.min(
      source.windowBytes - source.inFlightBytes,
      this.#limits.totalWindowBytes - this.#totalInFlight,
      this.#budget.available(this.#nowMs),
    )
    if (roomBytes <= 0) return
    if (source.requests.size === 0) source.lastChunkMs = this.#nowMs
    if (has.complete && held.left > ENDGAME_CHUNKS && !source.spent.has(artifact))
      return this.#askAny(peer, source, artifact, held, roomBytes)
    const asked = source.requests.get(artifact)
    const open = held.sampleOpen(has, SAMPLE, this.#random)
    const second = open.length === 0 && held.left <= ENDGAME_CHUNKS ? held.askedOnce(has, peer) : open
    // What was given up here may still come from here: it is for others.
    const candidates = asked === undefined ? second : second.filter((chunk) => !asked.has(chunk))
    const { availability, index } = held
    const chunks = chooseChunks({ candidates, availability, lengths: index.lengths, roomBytes, random: this.#random })
    if (chunks.length === 0) return
    for (const chunk of chunks) {
      held.requested(chunk, peer)
      this.#request(source, artifact, chunk, index.lengths[chunk] ?? 0, 1)
    }
    this.#effects.send(peer, { type: 'want', artifact, chunks })
  }

  #askAny(peer: string, source: Source, artifact: string, held: HeldArtifact, roomBytes: number): void {
    const { open } = held
    const bytesEach = held.index.artifactBytes / Math.max(1, held.index.count)
    const count = Math.min(open.count, 64, Math.max(1, Math.floor(roomBytes / bytesEach)))
    if (count === 0) return
    this.#request(source, artifact, ANY, bytesEach, count)
    this.#effects.send(peer, { type: 'want-any', artifact, count, size: open.size, bits: open.bytes.slice() })
  }

  #request(source: Source, artifact: string, chunk: number, bytesEach: number, count: number): void {
    const asked = source.requests.get(artifact) ?? new Map<number, Request>()
    source.requests.set(artifact, asked)
    const open = asked.get(chunk)
    if (open === undefined)
      asked.set(chunk, { artifact, chunk, bytesEach, sinceMs: this.#nowMs, left: count, abandoned: false })
    else {
      open.left += count
      open.sinceMs = this.#nowMs
    }
    this.#movedMs = this.#nowMs
    this.#budget.take(bytesEach * count, this.#nowMs)
    source.inFlightBytes += bytesEach * count
    this.#totalInFlight += bytesEach * count
  }

  #reduce(source: Source, request: Request, left: number): void {
    const bytes = (request.left - left) * request.bytesEach
    request.left = left
    source.inFlightBytes -= bytes
    this.#totalInFlight -= bytes
  }

  #end(peer: string, source: Source, request: Request): void {
    const asked = source.requests.get(request.artifact)
    if (asked?.delete(request.chunk) !== true) return
    if (asked.size === 0) source.requests.delete(request.artifact)
    this.#reduce(source, request, 0)
    if (!request.abandoned) this.#unrequest(peer, request)
  }

  #unrequest(peer: string, { artifact, chunk }: Request): void {
    if (chunk !== ANY) this.#held.get(artifact)?.unrequested(chunk, peer)
  }

  /** Another peer was faster. */
  #withdraw(peer: string, artifact: string, chunk: number): void {
    const source = this.#sources.get(peer)
    const request = source?.requests.get(artifact)?.get(chunk)
    if (source === undefined || request === undefined) return
    this.#cancel(peer, request)
    this.#end(peer, source, request)
  }

  #cancel(peer: string, { artifact, chunk }: Request): void {
    if (chunk !== ANY) this.#effects.send(peer, { type: 'cancel', artifact, chunks: [chunk] })
  }
}

/** The request that a chunk answers: one by number first. */
function find(source: Source, artifact: string, chunk: number): Request | undefined {
  const asked = source.requests.get(artifact)
  return asked?.get(chunk) ?? asked?.get(ANY)
}

function allOf(source: Source): Request[] {
  return [...source.requests.values()].flatMap((asked) => [...asked.values()])
}
