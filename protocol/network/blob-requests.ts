import { createHash } from 'node:crypto'
import { encodeExchangeMessage } from '../exchange/messages.ts'
import type { FrameStream } from './frame-stream.ts'

type Request = {
  readonly sha256: string
  readonly maxBytes: number
  readonly resolve: (bytes: Uint8Array | undefined) => void
}

const TIMEOUT_MS = 30_000
/** Small files that may be asked of one peer at once. */
export const MAX_BLOB_REQUESTS = 16

/** Small files that were asked of peers by their hash and have not come yet. */
export class BlobRequests {
  readonly #open = new Map<string, Request[]>()

  /** Asks one peer. @returns undefined when it has no such file, or does not answer in time */
  ask(peer: string, frames: FrameStream, sha256: string, maxBytes: number): Promise<Uint8Array | undefined> {
    if (frames.closed || this.#of(peer).length >= MAX_BLOB_REQUESTS) return Promise.resolve(undefined)
    return new Promise((resolve) => {
      // A late answer is still read (and dropped): the entry stays until it comes or the stream ends.
      const timer = setTimeout(() => resolve(undefined), TIMEOUT_MS)
      const request: Request = {
        sha256,
        maxBytes,
        resolve: (bytes) => {
          clearTimeout(timer)
          this.#open.set(
            peer,
            this.#of(peer).filter((other) => other !== request),
          )
          resolve(bytes)
        },
      }
      this.#open.set(peer, [...this.#of(peer), request])
      frames.send(encodeExchangeMessage({ type: 'fetch', sha256, maxBytes }))
    })
  }

  /** Takes an answer. False when it was not asked for or is not what it should be: no honest peer sends that. */
  answered(peer: string, sha256: string, payload: Uint8Array): boolean {
    const request = this.#of(peer).find((other) => other.sha256 === sha256)
    const found = createHash('sha256').update(payload).digest('hex')
    const good = request !== undefined && found === sha256 && payload.length <= request.maxBytes
    request?.resolve(good ? payload : undefined)
    return good
  }

  /** The peer does not have it. */
  refused(peer: string, sha256: string): void {
    for (const request of this.#of(peer)) if (request.sha256 === sha256) request.resolve(undefined)
  }

  /** The stream is gone. */
  ended(peer: string): void {
    for (const request of this.#of(peer)) request.resolve(undefined)
    this.#open.delete(peer)
  }

  /** The longest answer that is waited for: nothing longer is read. */
  longest(peer: string): number {
    return Math.max(0, ...this.#of(peer).map((request) => request.maxBytes))
  }

  #of(peer: string): readonly Request[] {
    return this.#open.get(peer) ?? []
  }
}
