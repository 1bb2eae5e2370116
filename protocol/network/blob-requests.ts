import { createHash } from 'node:crypto'
import { encodeExchangeMessage } from '../exchange/messages.ts'
import type { FrameStream } from './frame-stream.ts'

type Request = {
  readonly sha256: string
  readonly maxBytes: number
  /** Whoever waits for it; a late answer is for those who ask again meanwhile. */
  waiting: ((bytes: Uint8Array | undefined) => void)[]
}

/** The part of a stream that asking needs. */
type Questions = Pick<FrameStream, 'closed' | 'send'>

const TIMEOUT_MS = 30_000
/** A peer that has not answered after this is no longer waited for alone: a silent one would hold up every release. */
const HEDGE_MS = 1_500
/** A large index takes its time on slow radio, and must not be asked of everybody meanwhile: so many bytes a millisecond. */
const HEDGE_RATE = 128
const MAX_HEDGE_MS = 10_000
/** Nobody else has it: the late ones get so long, then the caller may look again, for others may have it by then. */
const LAST_WAIT_MS = 3_000
/** Small files that may be asked of one peer at once. */
export const MAX_BLOB_REQUESTS = 16

/** Small files that were asked of peers by their hash and have not come yet. */
export class BlobRequests {
  readonly #open = new Map<string, Request[]>()
  /** Peers that kept a question waiting and have answered none since: asked last. */
  readonly #late = new Set<string>()
  /** Peers whose last answer was a file: asked first. */
  readonly #helpful = new Set<string>()

  /**
   * Asks one peer after another, the next as soon as the one before has nothing or is late.
   * @param ways - peers with the streams on which they are asked
   * @returns undefined when nobody has it
   */
  async askAll(
    ways: readonly (readonly [string, Questions])[],
    sha256: string,
    maxBytes: number,
  ): Promise<Uint8Array | undefined> {
    // Whoever had the last one probably has the next; among many newcomers it is found at once.
    const rank = (peer: string) => (this.#late.has(peer) ? 2 : this.#helpful.has(peer) ? 0 : 1)
    const ordered = [...ways].sort(([a], [b]) => rank(a) - rank(b))
    const hedgeMs = Math.min(MAX_HEDGE_MS, HEDGE_MS + maxBytes / HEDGE_RATE)
    const asked: Promise<Uint8Array | undefined>[] = []
    for (const [peer, frames] of ordered) {
      const answer = this.ask(peer, frames, sha256, maxBytes)
      asked.push(answer)
      const first = await Promise.race([firstFound(asked), answer, later(hedgeMs)])
      if (first === 'late') this.#late.add(peer)
      else if (first !== undefined) return first
    }
    const last = await Promise.race([firstFound(asked), later(LAST_WAIT_MS)])
    return last === 'late' ? undefined : last
  }

  /** Asks one peer. @returns undefined when it has no such file, or does not answer in time */
  ask(peer: string, frames: Questions, sha256: string, maxBytes: number): Promise<Uint8Array | undefined> {
    const open = this.#of(peer).find((other) => other.sha256 === sha256)
    if (open === undefined && (frames.closed || this.#of(peer).length >= MAX_BLOB_REQUESTS))
      return Promise.resolve(undefined)
    // Asked before and still to come: waited for again, not asked again.
    const request: Request = open ?? { sha256, maxBytes, waiting: [] }
    const { promise, resolve } = Promise.withResolvers<Uint8Array | undefined>()
    const timer = setTimeout(() => resolve(undefined), TIMEOUT_MS)
    request.waiting.push((bytes) => {
      clearTimeout(timer)
      resolve(bytes)
    })
    if (open === undefined) {
      this.#open.set(peer, [...this.#of(peer), request])
      frames.send(encodeExchangeMessage({ type: 'fetch', sha256, maxBytes }))
    }
    return promise
  }

  #settle(peer: string, request: Request, bytes: Uint8Array | undefined): void {
    this.#open.set(
      peer,
      this.#of(peer).filter((other) => other !== request),
    )
    for (const resolve of request.waiting.splice(0)) resolve(bytes)
  }

  /** Takes an answer. False when it was not asked for or is not what it should be: no honest peer sends that. */
  answered(peer: string, sha256: string, payload: Uint8Array): boolean {
    const request = this.#of(peer).find((other) => other.sha256 === sha256)
    const found = createHash('sha256').update(payload).digest('hex')
    this.#late.delete(peer)
    const good = request !== undefined && found === sha256 && payload.length <= request.maxBytes
    if (good) this.#helpful.add(peer)
    if (request !== undefined) this.#settle(peer, request, good ? payload : undefined)
    return good
  }

  /** The peer does not have it. */
  refused(peer: string, sha256: string): void {
    this.#late.delete(peer)
    this.#helpful.delete(peer)
    for (const request of this.#of(peer)) if (request.sha256 === sha256) this.#settle(peer, request, undefined)
  }

  /** The stream is gone. */
  ended(peer: string): void {
    for (const request of this.#of(peer)) this.#settle(peer, request, undefined)
    this.#open.delete(peer)
    this.#late.delete(peer)
    this.#helpful.delete(peer)
  }

  /** The longest answer that is waited for: nothing longer is read. */
  longest(peer: string): number {
    return Math.max(0, ...this.#of(peer).map((request) => request.maxBytes))
  }

  #of(peer: string): readonly Request[] {
    return this.#open.get(peer) ?? []
  }
}

function later(ms: number): Promise<'late'> {
  return new Promise((resolve) => setTimeout(() => resolve('late'), ms).unref())
}

/** The first answer that is one; undefined once all are nothing. */
function firstFound(answers: readonly Promise<Uint8Array | undefined>[]): Promise<Uint8Array | undefined> {
  return new Promise((resolve) => {
    let open = answers.length
    for (const answer of answers) {
      void answer.then((bytes) => {
        open -= 1
        if (bytes !== undefined || open === 0) resolve(bytes)
      })
    }
  })
}
