import type { ChunkIndex } from '../chunks/chunk-index.ts'
import { Bitmap } from './bitmap.ts'
import { type Candidate, chooseChunks } from './choose-chunks.ts'
import type { ExchangeMessage, RejectCode } from './messages.ts'

/** What happened: the only way anything gets into the engine. Times are monotonic milliseconds. */
export type ExchangeInput =
  | { readonly type: 'peer-joined'; readonly peer: string }
  | { readonly type: 'peer-left'; readonly peer: string }
  /** The stream on which the peer asked was closed: what it asked for is void. */
  | { readonly type: 'asking-ended'; readonly peer: string }
  | { readonly type: 'message'; readonly peer: string; readonly message: ExchangeMessage }
  /** Start (or re-prioritise) getting an artifact; lower `priority` goes first. */
  | { readonly type: 'want-artifact'; readonly index: ChunkIndex; readonly have: Bitmap; readonly priority: number }
  /** Offer an artifact without wanting more of it. */
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
  /** A held chunk could not be read back as what it should be. */
  | { readonly type: 'chunk-rotten'; readonly artifact: string; readonly chunk: number }
  /** The peer's outgoing stream can take more. */
  | { readonly type: 'sent'; readonly peer: string }
  | { readonly type: 'tick' }

export type ExchangeEffect =
  | { readonly type: 'send'; readonly peer: string; readonly message: ExchangeMessage }
  /** Read the chunk, check it, send it as `chunk`, then report `sent`; on rot report `chunk-rotten` and send `reject gone`. */
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
  | {
      readonly type: 'ban'
      readonly peer: string
      readonly reason: 'BAD_CHUNKS' | 'UNASKED_CHUNK' | 'BAD_BITMAP' | 'FLOOD'
    }

/** Bounds of the engine; the defaults follow facts/distribution.md 3.5. */
export type ExchangeLimits = {
  readonly startWindowBytes: number
  readonly maxWindowBytes: number
  readonly totalWindowBytes: number
  readonly badChunksBeforeBan: number
  readonly requestTimeoutMs: number
  readonly queuePerPeer: number
  readonly asksPerPeer: number
}
export const DEFAULT_LIMITS: ExchangeLimits = {
  startWindowBytes: 512 * 1024,
  maxWindowBytes: 2 * 2 ** 20,
  totalWindowBytes: 16 * 2 ** 20,
  badChunksBeforeBan: 3,
  requestTimeoutMs: 8_000,
  queuePerPeer: 1024,
  asksPerPeer: 512,
}

/** With so few left the list is made exact, so that the endgame is recognised. */
const ENDGAME_LIST = 64

/** Two windows of chunks that crossed a cancel are innocent. */
const MAX_UNASKED_BYTES = 4 * 2 ** 20

type Request = {
  readonly artifact: string
  readonly chunk: number
  readonly bytes: number
  readonly sinceMs: number
  abandoned: boolean
}
type Peer = {
  readonly has: Map<string, Bitmap>
  readonly asked: Set<string>
  readonly inFlight: Map<string, Request>
  readonly queue: { readonly artifact: string; readonly chunk: number }[]
  serving: boolean
  inFlightBytes: number
  windowBytes: number
  lastChunkMs: number
  bytesThisSecond: number
  unaskedBytes: number
  /** Some of what is in flight may be asked of others by now. */
  hasAbandoned: boolean
}
type Local = {
  readonly index: ChunkIndex
  readonly have: Bitmap
  /** Undefined when the artifact is only offered. */
  priority: number | undefined
  readonly availability: Uint16Array
  /** Chunks not here; may still name some that came in lately. */
  missing: number[]
  /** How many peers each missing chunk was asked of. */
  readonly requests: Map<number, Set<string>>
  /** Chunks that arrived and are being verified and written, with their lengths. */
  readonly storing: Map<number, number>
  gained: number[]
}

/**
 * Decides who is asked for which chunk and who is served. No I/O, no clock, no randomness of its own: the same
 * inputs with the same `random` give the same effects. State lives inside; memory is bounded by the limits.
 *
 * Rules: rarest chunk first with random ties; a window of bytes per peer that follows its rate; near the end a chunk
 * may be asked of two peers, the slower is cancelled; every chunk is verified by the shell before it is kept, offered
 * or served; a peer that sends bad or unasked chunks is banned.
 * @see protocol/spec/exchange.md
 */
export class ExchangeEngine {
  readonly #limits: ExchangeLimits
  readonly #random: () => number
  readonly #peers = new Map<string, Peer>()
  readonly #local = new Map<string, Local>()
  /** Bad chunks by peer; kept when it comes and goes. */
  readonly #offences = new Map<string, number>()
  #effects: ExchangeEffect[] = []
  #nowMs = 0
  #lastRateMs = 0
  #totalInFlight = 0

  constructor(random: () => number, limits: ExchangeLimits = DEFAULT_LIMITS) {
    this.#random = random
    this.#limits = limits
  }

  /** Takes one input and returns what to do about it, in order. */
  step(input: ExchangeInput, nowMs: number): readonly ExchangeEffect[] {
    this.#nowMs = nowMs
    this.#effects = []
    switch (input.type) {
      case 'peer-joined':
        this.#peerJoined(input.peer)
        break
      case 'peer-left':
        this.#peerLeft(input.peer)
        break
      case 'asking-ended': {
        const peer = this.#peers.get(input.peer)
        peer?.asked.clear()
        peer?.queue.splice(0)
        break
      }
      case 'message':
        this.#message(input.peer, input.message)
        break
      case 'want-artifact':
        this.#addLocal(input.index, input.have, input.priority)
        break
      case 'offer-artifact':
        this.#addLocal(input.index, input.have, undefined)
        break
      case 'forget-artifact':
        this.#forget(input.artifact)
        break
      case 'chunk-stored':
        this.#stored(input.artifact, input.chunk)
        break
      case 'chunk-bad':
        this.#bad(input.artifact, input.chunk, input.from)
        break
      case 'chunk-rotten':
        this.#rotten(input.artifact, input.chunk)
        break
      case 'sent':
        this.#sent(input.peer)
        break
      case 'tick':
        this.#tick()
        break
    }
    this.#askPeers()
    return this.#effects
  }

  /** Bytes asked for and not yet here; never above `totalWindowBytes` plus one chunk. */
  get inFlightBytes(): number {
    return this.#totalInFlight
  }

  /** What is known of an artifact here, or undefined. */
  progress(artifact: string): { readonly have: number; readonly size: number; readonly sources: number } | undefined {
    const local = this.#local.get(artifact)
    if (local === undefined) return undefined
    let sources = 0
    for (const peer of this.#peers.values()) if ((peer.has.get(artifact)?.count ?? 0) > 0) sources += 1
    return { have: local.have.count, size: local.have.size, sources }
  }

  #send(peer: string, message: ExchangeMessage): void {
    this.#effects.push({ type: 'send', peer, message })
  }

  #peerJoined(id: string): void {
    const known = this.#peers.get(id)
    this.#peerLeft(id)
    this.#peers.set(id, {
      has: new Map(),
      // Our stream to it was opened anew; what it asked of us still holds.
      asked: known?.asked ?? new Set(),
      inFlight: new Map(),
      queue: known?.queue ?? [],
      serving: known?.serving ?? false,
      inFlightBytes: 0,
      windowBytes: this.#limits.startWindowBytes,
      lastChunkMs: this.#nowMs,
      bytesThisSecond: 0,
      unaskedBytes: known?.unaskedBytes ?? 0,
      hasAbandoned: false,
    })
    for (const [artifact, local] of this.#local) {
      if (local.priority !== undefined) this.#send(id, { type: 'ask', artifact })
    }
  }

  #peerLeft(id: string): void {
    const peer = this.#peers.get(id)
    if (peer === undefined) return
    for (const request of [...peer.inFlight.values()]) this.#endRequest(id, peer, request)
    for (const [artifact, bits] of peer.has) this.#countAvailability(artifact, bits, -1)
    this.#peers.delete(id)
  }

  #addLocal(index: ChunkIndex, have: Bitmap, priority: number | undefined): void {
    const known = this.#local.get(index.id)
    if (known !== undefined) {
      if (priority !== undefined && known.priority === undefined) {
        for (const id of this.#peers.keys()) this.#send(id, { type: 'ask', artifact: index.id })
      }
      known.priority = priority ?? known.priority
      this.#reconcile(index.id, known, have)
      return
    }
    const local: Local = {
      index,
      have: have.clone(),
      priority,
      availability: new Uint16Array(index.count),
      missing: Array.from({ length: index.count }, (_, at) => at).filter((at) => !have.has(at)),
      requests: new Map(),
      storing: new Map(),
      gained: [],
    }
    this.#local.set(index.id, local)
    for (const [id, peer] of this.#peers) {
      if (priority !== undefined) this.#send(id, { type: 'ask', artifact: index.id })
      if (peer.asked.has(index.id)) this.#sendHave(id, index.id, local)
    }
    if (local.have.complete && priority !== undefined) this.#effects.push({ type: 'complete', artifact: index.id })
  }

  /** What the disk really holds wins over what was believed. */
  #reconcile(artifact: string, local: Local, have: Bitmap): void {
    for (let at = 0; at < have.size; at += 1) {
      if (have.has(at)) this.#stored(artifact, at)
      else if (local.have.has(at)) this.#rotten(artifact, at)
    }
    if (local.have.complete && local.priority !== undefined) this.#effects.push({ type: 'complete', artifact })
  }

  #forget(artifact: string): void {
    const local = this.#local.get(artifact)
    if (local === undefined) return
    for (const [id, peer] of this.#peers) {
      const open = [...peer.inFlight.values()].filter((request) => request.artifact === artifact)
      if (open.length > 0) this.#send(id, { type: 'cancel', artifact, chunks: open.map((request) => request.chunk) })
      for (const request of open) this.#endRequest(id, peer, request)
      peer.has.delete(artifact)
      if (peer.asked.has(artifact)) this.#send(id, { type: 'have', artifact, size: 0, bits: new Uint8Array() })
    }
    for (const chunk of [...local.storing.keys()]) this.#endStoring(local, chunk)
    this.#local.delete(artifact)
  }

  #message(id: string, message: ExchangeMessage): void {
    const peer = this.#peers.get(id)
    if (peer === undefined) return
    switch (message.type) {
      case 'ask':
        if (peer.asked.size >= this.#limits.asksPerPeer) this.#ban(id, 'FLOOD')
        else {
          peer.asked.add(message.artifact)
          const local = this.#local.get(message.artifact)
          if (local !== undefined) this.#sendHave(id, message.artifact, local)
        }
        break
      case 'want':
        for (const chunk of message.chunks) this.#serveLater(id, peer, message.artifact, chunk)
        this.#serveNext(id, peer)
        break
      case 'cancel':
        for (const chunk of message.chunks) {
          const at = peer.queue.findIndex((entry) => entry.artifact === message.artifact && entry.chunk === chunk)
          if (at >= 0) peer.queue.splice(at, 1)
        }
        break
      case 'have':
        this.#peerHas(id, peer, message.artifact, message.size, message.bits)
        break
      case 'gained':
      case 'lost':
        this.#peerChanged(peer, message.artifact, message.chunks, message.type === 'gained')
        break
      case 'chunk':
        this.#chunkArrived(id, peer, message.artifact, message.chunk, message.payload)
        break
      case 'reject':
        this.#rejected(id, peer, message.artifact, message.chunk, message.code)
        break
      case 'fetch':
      case 'blob':
      case 'no-blob':
        break // answered by the shell: blobs are not chunks
    }
  }

  #sendHave(id: string, artifact: string, local: Local): void {
    this.#send(id, { type: 'have', artifact, size: local.have.size, bits: local.have.bytes.slice() })
  }

  #peerHas(id: string, peer: Peer, artifact: string, size: number, bits: Uint8Array): void {
    const local = this.#local.get(artifact)
    if (local === undefined) return // not asked any more
    if (size !== 0 && size !== local.index.count) return this.#ban(id, 'BAD_BITMAP')
    const before = peer.has.get(artifact)
    if (before !== undefined) this.#countAvailability(artifact, before, -1)
    const after = new Bitmap(local.index.count, size === 0 ? undefined : bits.slice())
    peer.has.set(artifact, after)
    this.#countAvailability(artifact, after, 1)
  }

  #peerChanged(peer: Peer, artifact: string, chunks: readonly number[], gained: boolean): void {
    const bits = peer.has.get(artifact)
    const local = this.#local.get(artifact)
    if (bits === undefined || local === undefined) return
    for (const chunk of chunks) {
      if (gained ? bits.add(chunk) : bits.remove(chunk)) {
        local.availability[chunk] = (local.availability[chunk] ?? 0) + (gained ? 1 : -1)
      }
    }
  }

  #countAvailability(artifact: string, bits: Bitmap, by: 1 | -1): void {
    const local = this.#local.get(artifact)
    if (local === undefined) return
    for (let at = 0; at < bits.size; at += 1) {
      if (bits.has(at)) local.availability[at] = (local.availability[at] ?? 0) + by
    }
  }

  #chunkArrived(id: string, peer: Peer, artifact: string, chunk: number, payload: Uint8Array): void {
    const key = `${artifact}:${chunk}`
    const request = peer.inFlight.get(key)
    const local = this.#local.get(artifact)
    if (request === undefined) {
      // A cancel may have crossed it; a peer that goes on sending what nobody asked for is another matter.
      peer.unaskedBytes += payload.length
      if (peer.unaskedBytes > MAX_UNASKED_BYTES) this.#ban(id, 'UNASKED_CHUNK')
      return
    }
    this.#endRequest(id, peer, request)
    peer.lastChunkMs = this.#nowMs
    peer.bytesThisSecond += payload.length
    if (local === undefined || local.have.has(chunk) || local.storing.has(chunk)) return
    for (const other of local.requests.get(chunk) ?? []) {
      this.#send(other, { type: 'cancel', artifact, chunks: [chunk] })
      const otherPeer = this.#peers.get(other)
      const open = otherPeer?.inFlight.get(key)
      if (otherPeer !== undefined && open !== undefined) this.#endRequest(other, otherPeer, open)
    }
    local.storing.set(chunk, payload.length)
    this.#totalInFlight += payload.length // until it is on disk it takes up memory
    this.#effects.push({ type: 'store', from: id, artifact, chunk, payload })
  }

  #endRequest(id: string, peer: Peer, request: Request): void {
    if (!peer.inFlight.delete(`${request.artifact}:${request.chunk}`)) return
    peer.inFlightBytes -= request.bytes
    this.#totalInFlight -= request.bytes
    const askers = this.#local.get(request.artifact)?.requests.get(request.chunk)
    askers?.delete(id)
    if (askers?.size === 0) this.#local.get(request.artifact)?.requests.delete(request.chunk)
  }

  #stored(artifact: string, chunk: number): void {
    const local = this.#local.get(artifact)
    if (local === undefined) return
    this.#endStoring(local, chunk)
    if (!local.have.add(chunk)) return
    local.gained.push(chunk)
    if (local.gained.length >= 32 || local.have.complete) this.#announceGained(artifact, local)
    if (local.have.complete) this.#effects.push({ type: 'complete', artifact })
  }

  #endStoring(local: Local, chunk: number): void {
    this.#totalInFlight -= local.storing.get(chunk) ?? 0
    local.storing.delete(chunk)
  }

  #announceGained(artifact: string, local: Local): void {
    if (local.gained.length === 0) return
    const chunks = local.gained.splice(0)
    for (const [id, peer] of this.#peers) {
      if (!peer.asked.has(artifact)) continue
      for (let at = 0; at < chunks.length; at += 512) {
        this.#send(id, { type: 'gained', artifact, chunks: chunks.slice(at, at + 512) })
      }
    }
  }

  #bad(artifact: string, chunk: number, from: string): void {
    const stored = this.#local.get(artifact)
    if (stored !== undefined) this.#endStoring(stored, chunk)
    const peer = this.#peers.get(from)
    if (peer === undefined) return
    const offences = (this.#offences.get(from) ?? 0) + 1
    if (this.#offences.size > 1_024) this.#offences.delete(this.#offences.keys().next().value ?? '')
    this.#offences.set(from, offences)
    // Never asked of this peer again, whatever it says it has.
    const bits = peer.has.get(artifact)
    if (bits?.remove(chunk)) {
      const local = this.#local.get(artifact)
      if (local !== undefined) local.availability[chunk] = Math.max(0, (local.availability[chunk] ?? 0) - 1)
    }
    if (offences >= this.#limits.badChunksBeforeBan) this.#ban(from, 'BAD_CHUNKS')
  }

  #rotten(artifact: string, chunk: number): void {
    const local = this.#local.get(artifact)
    if (local === undefined || !local.have.remove(chunk)) return
    local.missing.push(chunk)
    for (const [id, peer] of this.#peers) {
      if (peer.asked.has(artifact)) this.#send(id, { type: 'lost', artifact, chunks: [chunk] })
    }
  }

  #ban(id: string, reason: 'BAD_CHUNKS' | 'UNASKED_CHUNK' | 'BAD_BITMAP' | 'FLOOD'): void {
    this.#peerLeft(id)
    this.#effects.push({ type: 'ban', peer: id, reason })
  }

  #rejected(id: string, peer: Peer, artifact: string, chunk: number, code: RejectCode): void {
    const request = peer.inFlight.get(`${artifact}:${chunk}`)
    if (request !== undefined) this.#endRequest(id, peer, request)
    if (code === 'busy') peer.windowBytes = Math.max(65_536, peer.windowBytes / 2)
    else this.#peerChanged(peer, artifact, [chunk], false)
  }

  #serveLater(id: string, peer: Peer, artifact: string, chunk: number): void {
    const local = this.#local.get(artifact)
    if (local === undefined || !local.have.has(chunk)) this.#send(id, { type: 'reject', artifact, chunk, code: 'gone' })
    else if (peer.queue.length >= this.#limits.queuePerPeer)
      this.#send(id, { type: 'reject', artifact, chunk, code: 'busy' })
    else peer.queue.push({ artifact, chunk })
  }

  #serveNext(id: string, peer: Peer): void {
    if (peer.serving) return
    for (let next = peer.queue.shift(); next !== undefined; next = peer.queue.shift()) {
      if (this.#local.get(next.artifact)?.have.has(next.chunk) !== true) {
        this.#send(id, { type: 'reject', artifact: next.artifact, chunk: next.chunk, code: 'gone' })
        continue
      }
      peer.serving = true
      this.#effects.push({ type: 'serve', peer: id, artifact: next.artifact, chunk: next.chunk })
      return
    }
  }

  #sent(id: string): void {
    const peer = this.#peers.get(id)
    if (peer === undefined) return
    peer.serving = false
    this.#serveNext(id, peer)
  }

  #tick(): void {
    for (const [artifact, local] of this.#local) this.#announceGained(artifact, local)
    const elapsedMs = this.#nowMs - this.#lastRateMs
    if (elapsedMs >= 1_000) {
      for (const peer of this.#peers.values()) {
        const rate = (peer.bytesThisSecond * 1_000) / elapsedMs
        peer.bytesThisSecond = 0
        // Half a second of the peer's rate, moved half-way each second so that one pause does not empty the pipe.
        const wanted = Math.min(this.#limits.maxWindowBytes, Math.max(262_144, rate * 0.5))
        if (rate > 0) peer.windowBytes = (peer.windowBytes + wanted) / 2
      }
      this.#lastRateMs = this.#nowMs
    }
    for (const [id, peer] of this.#peers) {
      if (this.#nowMs - peer.lastChunkMs < this.#limits.requestTimeoutMs) continue
      for (const request of [...peer.inFlight.values()]) {
        if (this.#nowMs - request.sinceMs < this.#limits.requestTimeoutMs) continue
        // Kept in the peer's window (it may still come) but free to be asked of another.
        if (!request.abandoned) {
          request.abandoned = true
          peer.hasAbandoned = true
          this.#local.get(request.artifact)?.requests.get(request.chunk)?.delete(id)
          peer.windowBytes = Math.max(65_536, peer.windowBytes / 2)
        } else if (this.#nowMs - request.sinceMs > this.#limits.requestTimeoutMs * 4) {
          this.#send(id, { type: 'cancel', artifact: request.artifact, chunks: [request.chunk] })
          this.#endRequest(id, peer, request)
        }
      }
    }
  }

  /** Fills every peer's window. Wanted artifacts in order of priority, rarest chunk first. */
  #askPeers(): void {
    const wanted = [...this.#local.entries()]
      .filter(([, local]) => local.priority !== undefined && !local.have.complete)
      .sort(([, a], [, b]) => (a.priority ?? 0) - (b.priority ?? 0))
    if (wanted.length === 0) return
    for (const [id, peer] of this.#peers) {
      if (peer.inFlightBytes >= peer.windowBytes * 0.75 && peer.inFlightBytes > 0) continue
      for (const [artifact, local] of wanted) {
        const has = peer.has.get(artifact)
        if (has === undefined || has.count === 0) continue
        this.#ask(id, peer, artifact, local, has)
        if (peer.inFlightBytes >= peer.windowBytes) break
      }
    }
  }

  #ask(id: string, peer: Peer, artifact: string, local: Local, has: Bitmap): void {
    const roomBytes = Math.min(
      peer.windowBytes - peer.inFlightBytes,
      this.#limits.totalWindowBytes - this.#totalInFlight,
    )
    // Chunks that came in since the last look are taken off the list only when they are a good part of it.
    if (local.missing.length > (local.have.size - local.have.count) * 1.1 + 16) {
      local.missing = local.missing.filter((chunk) => !local.have.has(chunk))
    }
    const candidate = (chunk: number): Candidate | undefined => {
      if (local.have.has(chunk) || local.storing.has(chunk) || !has.has(chunk)) return undefined
      const askers = local.requests.get(chunk)
      if (askers?.has(id) === true) return undefined
      if (peer.hasAbandoned && peer.inFlight.has(`${artifact}:${chunk}`)) return undefined
      return {
        rarity: local.availability[chunk] ?? 0,
        askedOf: askers?.size ?? 0,
        lengthBytes: local.index.lengths[chunk] ?? 0,
      }
    }
    const left = local.have.size - local.have.count - local.storing.size
    const missing =
      left <= ENDGAME_LIST
        ? local.missing.filter((chunk) => !local.have.has(chunk) && !local.storing.has(chunk))
        : local.missing
    const chunks = chooseChunks({ missing, roomBytes, candidate, random: this.#random })
    for (const chunk of chunks) {
      const bytes = local.index.lengths[chunk] ?? 0
      peer.inFlight.set(`${artifact}:${chunk}`, { artifact, chunk, bytes, sinceMs: this.#nowMs, abandoned: false })
      peer.inFlightBytes += bytes
      this.#totalInFlight += bytes
      const askers = local.requests.get(chunk) ?? new Set()
      local.requests.set(chunk, askers.add(id))
    }
    for (let at = 0; at < chunks.length; at += 512) {
      this.#send(id, { type: 'want', artifact, chunks: chunks.slice(at, at + 512) })
    }
    if (chunks.length > 0 && peer.inFlight.size === chunks.length) peer.lastChunkMs = this.#nowMs
  }
}
