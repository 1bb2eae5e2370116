import { setTimeout as pause } from 'node:timers/promises'
import type { Stream } from '@libp2p/interface'
import { type ChunkIndex, MAX_CHUNK_BYTES } from '../chunks/chunk-index.ts'
import { FlotillaError, messageOf } from '../errors.ts'
import type { Bitmap } from '../exchange/bitmap.ts'
import { type ExchangeEffect, ExchangeEngine, type ExchangeInput } from '../exchange/engine.ts'
import {
  BULK_ID_BYTES,
  encodeExchangeMessage,
  isChunkAnswer,
  isChunkQuestion,
  type ExchangeMessage,
  MAX_EXCHANGE_FRAME,
  parseExchangeMessage,
} from '../exchange/messages.ts'
import { BlobRequests, MAX_BLOB_REQUESTS } from './blob-requests.ts'
import type { RadioHops } from '../exchange/airtime.ts'
import { type BulkListener, type BulkSession, MAX_QUESTION_BYTES } from './bulk-channel.ts'
import { BulkLinks, sendChunk } from './bulk-links.ts'
import type { FleetNode } from './fleet-node.ts'
import { FrameStream } from './frame-stream.ts'
import { OpenCount } from './open-count.ts'
import { SendBudget, type SendRates } from './send-budget.ts'

/** The bulk protocol: questions and answers of the exchange engine. */
export const EXCHANGE_PROTOCOL = '/flotilla/exchange/1'

/** Where chunks and blobs are read from and kept: the agent's slots and partial files, or the operator's repository. */
export type ChunkStore = {
  /** Reads a chunk and checks it: `rotten` when what is there is not the chunk, `gone` when it is not held any more. */
  readonly readChunk: (artifact: string, chunk: number) => Promise<Uint8Array | 'rotten' | 'gone'>
  /**
   * Checks a payload and keeps it. `bad` = not the chunk; `unwanted` = no file takes it; numbers = all chunks that it completed,
   * none when the artifact is not held any more.
   */
  readonly storeChunk: (
    artifact: string,
    chunk: number,
    payload: Uint8Array,
  ) => Promise<'bad' | 'unwanted' | readonly StoredChunk[]>
  /** A small file by hash (description, index, policy), or undefined. */
  readonly readBlob: (sha256: string) => Promise<Uint8Array | undefined>
}
export type StoredChunk = { readonly artifact: string; readonly chunk: number }

export type ExchangeEvents = {
  readonly complete: (artifact: string) => void
  readonly fetched: (bytes: number, from: string) => void
  readonly served: (bytes: number, to: string) => void
  /** The store failed (disk full, read-only): the driver has stopped asking for the artifact. */
  readonly storeFailed: (artifact: string, error: unknown) => void
  readonly rotten: (artifact: string, chunk: number) => void
}

export type ExchangeRates = SendRates & { readonly receiveRate: number }

const NOTHING = new Uint8Array()
/** What is not a release lets chunks go first; not for ever, so that it goes on at all. */
const YIELD_MS = 100
const MAX_YIELD_MS = 2_000

/**
 * Connects the exchange engine with streams and a store. Each side opens one stream for its own questions; answers
 * come back on it, so that questions never wait behind data that flows the other way.
 */
export class ExchangeDriver {
  readonly #engine = new ExchangeEngine(Math.random)
  readonly #node: FleetNode
  readonly #store: ChunkStore
  readonly #events: ExchangeEvents
  /** Streams we opened: we ask. */
  readonly #asking = new Map<string, FrameStream>()
  /** Streams the peer opened: we answer. */
  readonly #answering = new Map<string, FrameStream>()
  readonly #blobs = new BlobRequests()
  /** Small files that are on their way to each peer. */
  readonly #fetches = new OpenCount(MAX_BLOB_REQUESTS)
  readonly #budget = new SendBudget()
  readonly #bulk: BulkLinks
  #timer: NodeJS.Timeout | undefined

  /** @param listener - where peers fetch chunks outside the Noise stream; undefined leaves everything on it */
  constructor(node: FleetNode, store: ChunkStore, events: ExchangeEvents, listener: BulkListener | undefined) {
    this.#node = node
    this.#bulk = new BulkLinks(listener)
    this.#store = store
    this.#events = events
  }

  async start(): Promise<void> {
    await this.#node.handle(EXCHANGE_PROTOCOL, (stream, peer) => this.#answer(stream, peer))
    this.#timer = setInterval(() => this.#apply({ type: 'tick' }), 250)
    this.#timer.unref()
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#bulk.stop()
  }

  memberJoined(peer: string, radioHops: RadioHops): void {
    this.#apply({ type: 'peer-joined', peer, radioHops })
    void this.#openAsking(peer)
  }

  memberGone(peer: string): void {
    this.#asking.delete(peer)
    this.#answering.delete(peer)
    this.#bulk.gone(peer)
    this.#budget.gone(peer)
    this.#apply({ type: 'peer-left', peer })
    this.#blobs.ended(peer)
  }

  /** Nothing is under way to or from the peer. */
  isIdle(peer: string): boolean {
    return this.#engine.isIdle(peer) && this.#blobs.longest(peer) === 0 && !this.#fetches.has(peer)
  }

  /**
   * Limits how fast chunks move, in bytes per second: Infinity for no limit, 0 for nothing. Questions, small files and
   * news are not limited.
   */
  limit(limits: ExchangeRates): void {
    this.#budget.limit(limits)
    this.#apply({ type: 'limit', receiveRate: limits.receiveRate, isClosed: limits.isClosed })
  }

  /** Takes bytes that are no chunks from the same budget, once no chunk is on its way: releases go first. */
  async spend(peer: string, bytes: number, isWanted: () => boolean): Promise<void> {
    for (let waitedMs = 0; waitedMs < MAX_YIELD_MS && this.#isServing() && isWanted(); waitedMs += YIELD_MS)
      await pause(YIELD_MS)
    await this.#budget.spend(peer, bytes, () => this.#node.isMember(peer) && isWanted())
  }

  #isServing(): boolean {
    return this.#node.members().some(({ id }) => !this.#engine.isIdle(id))
  }

  want(index: ChunkIndex, have: Bitmap, priority: number): void {
    this.#apply({ type: 'want-artifact', index, have, priority })
  }

  offer(index: ChunkIndex, have: Bitmap): void {
    this.#apply({ type: 'offer-artifact', index, have })
  }

  forget(artifact: string): void {
    this.#apply({ type: 'forget-artifact', artifact })
  }

  /** Chunks that were found on this device. */
  foundLocally(stored: readonly StoredChunk[]): void {
    for (const { artifact, chunk } of stored) this.#apply({ type: 'chunk-stored', artifact, chunk, from: undefined })
  }

  /** A chunk that was thought to be here is not: it is asked for again when its artifact is wanted. */
  lost(artifact: string, chunk: number): void {
    this.#apply({ type: 'chunk-lost', artifact, chunk })
  }

  /**
   * Gets a small file by hash from whichever member has it.
   * @returns undefined when nobody connected has it now
   */
  fetchBlob(sha256: string, maxBytes: number): Promise<Uint8Array | undefined> {
    const ways = this.#node.members().flatMap(({ id }) => {
      const frames = this.#asking.get(id)
      return frames === undefined ? [] : [[id, frames] as const]
    })
    return ways.length === 0 ? Promise.resolve(undefined) : this.#blobs.askAll(ways, sha256, maxBytes)
  }

  async #openAsking(peer: string): Promise<void> {
    if (this.#asking.get(peer)?.closed === false) return
    let stream: Stream
    try {
      stream = await this.#node.open(peer, EXCHANGE_PROTOCOL)
    } catch {
      if (this.#node.isMember(peer)) setTimeout(() => void this.#openAsking(peer), 1_000).unref()
      return
    }
    // The peer went meanwhile, or came back and was asked by somebody else.
    if (!this.#node.isMember(peer) || this.#asking.get(peer)?.closed === false)
      return stream.abort(new Error('not needed any more'))
    const frames = new FrameStream(stream, { maxFrameBytes: (type) => this.#answerLimit(peer, type) })
    this.#asking.set(peer, frames)
    this.#endAsking(peer) // of an older one that is closed and has not said so yet
    frames.onFrame = (frame) => this.#receive(peer, frame)
    frames.onClose = (error) => {
      if (this.#asking.get(peer) !== frames) return
      this.#asking.delete(peer)
      this.#endAsking(peer)
      this.#apply({ type: 'peer-joined', peer }) // ends what was asked on the lost stream
      if (error instanceof FlotillaError && error.code === 'BAD_FRAME') this.#node.ban(peer, 'BAD_FRAME', error.message)
      else if (this.#node.isMember(peer)) setTimeout(() => void this.#openAsking(peer), 500).unref()
    }
    this.#apply({ type: 'peer-joined', peer })
    if (this.#bulk.ask(peer)) frames.send(encodeExchangeMessage({ type: 'open-bulk' }))
  }

  /** What belonged to a stream on which this device asked. */
  #endAsking(peer: string): void {
    this.#bulk.endIncoming(peer)
    this.#blobs.ended(peer)
  }

  // Types: 8 chunk, 10 blob (only as long as one is asked for), 5 have.
  #answerLimit(peer: string, type: number): number {
    if (type === 10) return Math.min(MAX_EXCHANGE_FRAME, 33 + this.#blobs.longest(peer))
    return type === 8 ? MAX_CHUNK_BYTES + 64 : 65_536
  }

  #receive(peer: string, frame: Uint8Array): void {
    const message = this.#parse(peer, frame)
    if (message === undefined) return
    if (isChunkAnswer(message)) {
      // What was said before the bulk channel was there may come after what was said on it: that holds.
      const stale = ['have', 'gained', 'lost'].includes(message.type) && this.#bulk.incoming(peer) !== undefined
      if (!stale) this.#apply({ type: 'message', peer, message })
      return
    }
    switch (message.type) {
      case 'blob':
        if (!this.#blobs.answered(peer, message.sha256, message.payload))
          this.#node.ban(peer, 'BAD_BLOB', 'sent a file that was not asked for or is not what it should be')
        break
      case 'bulk':
        if (!this.#bulk.expects(peer)) this.#node.ban(peer, 'BAD_FRAME', 'a bulk session that nobody asked for')
        else if (message.port !== 0) void this.#dialBulk(peer, message)
        break
      case 'no-blob':
        this.#blobs.refused(peer, message.sha256)
        break
      default:
        this.#node.ban(peer, 'BAD_FRAME', `asked (${message.type}) on a stream that is for answers`)
    }
  }

  async #dialBulk(peer: string, session: BulkSession): Promise<void> {
    const asking = this.#asking.get(peer)
    const host = this.#node.hostOf(peer)
    if (asking === undefined || host === undefined) return
    const dialled = await this.#bulk.dial(peer, host, session, {
      isWanted: () => this.#asking.get(peer) === asking,
      frame: (frame) => this.#bulkAnswer(peer, frame),
      // What was on its way is lost with it: all is asked again on a new stream.
      end: () => asking.abort(new Error('the bulk connection is gone')),
    })
    if (dialled) this.#apply({ type: 'ask-again', peer })
  }

  #bulkAnswer(peer: string, frame: Uint8Array): void {
    const message = this.#parse(peer, frame)
    if (message === undefined) return
    if (isChunkAnswer(message)) this.#apply({ type: 'message', peer, message })
    else this.#node.ban(peer, 'BAD_FRAME', `${message.type} on the bulk channel`)
  }

  #answer(stream: Stream, peer: string): void {
    // Type 14, a bitmap, may be as long as the longest index asks for.
    const frames = new FrameStream(stream, { maxFrameBytes: (type) => (type === 14 ? MAX_QUESTION_BYTES : 4_096) })
    // One file at a time for each peer, in order.
    let sending = Promise.resolve()
    // One stream at a time: what was asked on an older one is void, and its bulk channel may lead nowhere any more.
    const older = this.#answering.get(peer)
    this.#answering.set(peer, frames)
    if (older !== undefined) {
      older.abort(new Error('a newer stream'))
      this.#endAnswering(peer)
    }
    frames.onFrame = (frame) => {
      const message = this.#parse(peer, frame)
      if (message === undefined) return
      if (isChunkQuestion(message)) return this.#apply({ type: 'message', peer, message })
      switch (message.type) {
        case 'open-bulk': {
          const none = { key: new Uint8Array(32), id: new Uint8Array(BULK_ID_BYTES), port: 0 }
          const session = this.#bulk.offer(peer, {
            isWanted: () => this.#answering.get(peer) === frames,
            question: (question) => this.#question(peer, question),
          })
          frames.send(encodeExchangeMessage({ type: 'bulk', ...(session ?? none) }))
          break
        }
        case 'fetch': {
          const sent = this.#fetches.take(peer)
          if (sent === undefined) return this.#node.ban(peer, 'FLOOD', 'asks for too many files at once')
          sending = sending.then(() => this.#sendBlob(frames, message.sha256, message.maxBytes)).finally(sent)
          break
        }
        default:
          this.#node.ban(peer, 'BAD_FRAME', `answered (${message.type}) on a stream that is for questions`)
      }
    }
    frames.onClose = () => {
      if (this.#answering.get(peer) !== frames) return
      this.#answering.delete(peer)
      this.#endAnswering(peer)
    }
  }

  #endAnswering(peer: string): void {
    this.#bulk.endOutgoing(peer)
    this.#apply({ type: 'asking-ended', peer })
  }

  /** A question that came on the bulk channel: it costs a third of one on the Noise stream. */
  #question(peer: string, frame: Uint8Array): void {
    const message = this.#parse(peer, frame)
    if (message === undefined) return
    if (['ask', 'want', 'want-any', 'cancel'].includes(message.type)) this.#apply({ type: 'message', peer, message })
    else this.#node.ban(peer, 'BAD_FRAME', `${message.type} on the bulk channel`)
  }

  async #sendBlob(frames: FrameStream, sha256: string, maxBytes: number): Promise<void> {
    const payload = await this.#store.readBlob(sha256).catch(() => undefined)
    const fits = payload !== undefined && payload.length <= maxBytes
    const sent = frames.send(
      encodeExchangeMessage(fits ? { type: 'blob', sha256, payload } : { type: 'no-blob', sha256 }),
    )
    if (!sent) await frames.drained()
  }

  #parse(peer: string, frame: Uint8Array): ExchangeMessage | undefined {
    try {
      return parseExchangeMessage(frame)
    } catch (error) {
      this.#node.ban(peer, 'BAD_FRAME', messageOf(error))
      return undefined
    }
  }

  #apply(input: ExchangeInput): void {
    for (const effect of this.#engine.step(input, performance.now())) this.#run(effect)
  }

  #run(effect: ExchangeEffect): void {
    switch (effect.type) {
      case 'send':
        this.#sendTo(effect.peer, effect.message)
        break
      case 'serve':
        void this.#serve(effect.peer, effect.artifact, effect.chunk)
        break
      case 'store':
        void this.#keep(effect.from, effect.artifact, effect.chunk, effect.payload)
        break
      case 'complete':
        this.#events.complete(effect.artifact)
        break
      case 'ban':
        this.#node.ban(effect.peer, effect.reason, 'by the rules of the exchange')
        break
    }
  }

  #sendTo(peer: string, message: ExchangeMessage): void {
    const asks = isChunkQuestion(message)
    const bulk = asks ? this.#bulk.incoming(peer) : this.#bulk.outgoing(peer)
    const frame = encodeExchangeMessage(message)
    if (bulk !== undefined) bulk.send(frame, NOTHING)
    else (asks ? this.#asking : this.#answering).get(peer)?.send(frame)
  }

  async #serve(peer: string, artifact: string, chunk: number): Promise<void> {
    const frames = this.#answering.get(peer)
    // What cannot be read now may be read later: the peer asks again, and nobody else is told that it is lost.
    const payload = await this.#store.readChunk(artifact, chunk).catch(() => 'unread' as const)
    if (payload === 'rotten' || payload === 'gone') this.#apply({ type: 'chunk-lost', artifact, chunk })
    if (payload === 'rotten') this.#events.rotten(artifact, chunk)
    if (typeof payload !== 'string') await this.#budget.spend(peer, payload.length, () => this.#node.isMember(peer))
    // What was asked on an older stream is void.
    if (frames !== undefined && this.#answering.get(peer) === frames) {
      if (typeof payload === 'string')
        frames.send(encodeExchangeMessage({ type: 'reject', artifact, chunk, code: 'gone' }))
      else await this.#sendChunk(peer, frames, artifact, chunk, payload)
    }
    this.#apply({ type: 'sent', peer })
  }

  async #sendChunk(
    peer: string,
    frames: FrameStream,
    artifact: string,
    chunk: number,
    payload: Uint8Array,
  ): Promise<void> {
    const bulk = this.#bulk.outgoing(peer)
    if (bulk === undefined) {
      if (!frames.send(encodeExchangeMessage({ type: 'chunk', artifact, chunk, payload }))) await frames.drained()
    } else if (!sendChunk(bulk, artifact, chunk, payload)) await bulk.drained()
    this.#events.served(payload.length, peer)
  }

  async #keep(from: string, artifact: string, chunk: number, payload: Uint8Array): Promise<void> {
    try {
      const stored = await this.#store.storeChunk(artifact, chunk, payload)
      if (stored === 'bad') return this.#apply({ type: 'chunk-bad', artifact, chunk, from })
      this.#events.fetched(payload.length, from)
      if (stored === 'unwanted') return this.#apply({ type: 'chunk-lost', artifact, chunk })
      // No file takes it any more: it was given up meanwhile.
      if (stored.length === 0) return this.#apply({ type: 'forget-artifact', artifact })
      for (const one of stored) this.#apply({ type: 'chunk-stored', ...one, from })
    } catch (error) {
      this.#apply({ type: 'forget-artifact', artifact })
      this.#events.storeFailed(artifact, error)
    }
  }
}
