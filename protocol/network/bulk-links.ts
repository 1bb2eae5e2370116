import { MAX_CHUNK_BYTES } from '../chunks/chunk-index.ts'
import { chunkHead } from '../exchange/messages.ts'
import { BulkChannel, type BulkListener, type BulkSession, dialBulk } from './bulk-channel.ts'

const RETRY_MS = 60_000
const SHORT_MS = 10_000
/** A peer may ask for a session so often. */
const MIN_OFFER_MS = 1_000

/**
 * The bulk connections of a device, one for each direction and peer. The side that asks dials, with a session that came
 * over the Noise stream; then the whole exchange of that direction moves there, and only small files stay behind.
 * Where no such connection can be made, everything stays on the Noise stream.
 */
export class BulkLinks {
  readonly #listener: BulkListener | undefined
  /** Chunks come in. */
  readonly #incoming = new Map<string, BulkChannel>()
  /** Chunks go out. */
  readonly #outgoing = new Map<string, BulkChannel>()
  readonly #offeredMs = new Map<string, number>()
  readonly #failedMs = new Map<string, number>()
  /** Peers that were asked for a session and have not answered. */
  readonly #expected = new Set<string>()

  /** @param listener - undefined when no port could be bound: then this side only dials */
  constructor(listener: BulkListener | undefined) {
    this.#listener = listener
  }

  /**
   * A session for a peer that asks for one; undefined when there is no listener, or it asks too often.
   * @param on.isWanted - whether the stream on which it was asked for is still the one
   */
  offer(
    peer: string,
    on: { readonly isWanted: () => boolean; readonly question: (frame: Uint8Array) => void },
  ): BulkSession | undefined {
    const nowMs = performance.now()
    if (nowMs - (this.#offeredMs.get(peer) ?? -Infinity) < MIN_OFFER_MS) return undefined
    this.#offeredMs.set(peer, nowMs)
    return this.#listener?.offer((channel) => {
      if (!on.isWanted()) return channel.close() // it left meanwhile, or asks on another stream
      this.#outgoing.get(peer)?.close()
      this.#outgoing.set(peer, channel)
      channel.onFrame = on.question
      channel.onClose = () => {
        if (this.#outgoing.get(peer) === channel) this.#outgoing.delete(peer)
      }
    })
  }

  /** True when it is worth asking the peer for a session; its one answer is then expected. */
  ask(peer: string): boolean {
    if (this.#incoming.has(peer) || performance.now() - (this.#failedMs.get(peer) ?? -Infinity) <= RETRY_MS)
      return false
    this.#expected.add(peer)
    return true
  }

  /** Whether a session from the peer was asked for: nobody makes this device dial as often as it likes. */
  expects(peer: string): boolean {
    return this.#expected.delete(peer)
  }

  /** Dials with a session that the peer handed out; true when it worked. `on.end` is called when a connection that worked is gone. */
  async dial(
    peer: string,
    host: string,
    session: BulkSession,
    on: { readonly frame: (frame: Uint8Array) => void; readonly end: () => void; readonly isWanted: () => boolean },
  ): Promise<boolean> {
    let channel: BulkChannel
    try {
      channel = await dialBulk(host, session, MAX_CHUNK_BYTES + 64)
    } catch {
      this.#failedMs.set(peer, performance.now()) // a port that is closed to us: the Noise stream does it
      return false
    }
    if (!on.isWanted()) {
      channel.close()
      return false
    }
    this.#incoming.get(peer)?.close()
    this.#incoming.set(peer, channel)
    channel.onFrame = on.frame
    const connectedMs = performance.now()
    channel.onClose = () => {
      if (this.#incoming.get(peer) !== channel) return
      // One that breaks at once would be made anew at once.
      if (performance.now() - connectedMs < SHORT_MS) this.#failedMs.set(peer, performance.now())
      this.#incoming.delete(peer)
      on.end()
    }
    return true
  }

  /** The channel on which chunks come from a peer, and questions about them go to it. */
  incoming(peer: string): BulkChannel | undefined {
    return this.#incoming.get(peer)
  }

  /** The channel on which chunks go to a peer, or undefined. */
  outgoing(peer: string): BulkChannel | undefined {
    return this.#outgoing.get(peer)
  }

  /** The peer asks anew, or is gone: nothing more goes to it on the old channel. */
  endOutgoing(peer: string): void {
    const channel = this.#outgoing.get(peer)
    this.#outgoing.delete(peer)
    channel?.close()
  }

  endIncoming(peer: string): void {
    const channel = this.#incoming.get(peer)
    this.#incoming.delete(peer)
    channel?.close()
  }

  gone(peer: string): void {
    this.endIncoming(peer)
    this.endOutgoing(peer)
    this.#offeredMs.delete(peer)
    this.#failedMs.delete(peer)
    this.#expected.delete(peer)
  }

  stop(): void {
    for (const peer of [...this.#incoming.keys(), ...this.#outgoing.keys()]) this.gone(peer)
    this.#listener?.close()
  }
}

/** Sends a chunk on a bulk channel; false means `await channel.drained()` first. */
export function sendChunk(channel: BulkChannel, artifact: string, chunk: number, payload: Uint8Array): boolean {
  return channel.send(chunkHead(artifact, chunk), payload)
}
