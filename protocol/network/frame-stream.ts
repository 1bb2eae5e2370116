import type { Stream } from '@libp2p/interface'
import { FlotillaError } from '../errors.ts'

/** A frame is `length u32 LE | body`; the first byte of the body may choose the limit. */
export type FrameLimits = { readonly maxFrameBytes: (firstByte: number) => number }

/**
 * Frames over one libp2p stream. Reading never pauses: what may arrive is bounded by the protocol above
 * (answers only to questions asked), because pause and the async iterator of libp2p 3.3 do not slow a sender
 * (facts/libp2p.md 1.3). Writing waits for the `drain` event, since `onDrain()` works only once.
 */
export class FrameStream {
  readonly #stream: Stream
  readonly #limits: FrameLimits
  readonly #head = Buffer.allocUnsafe(5)
  #headBytes = 0
  #frame: Buffer | undefined
  #frameBytes = 0
  #early: Uint8Array[] = []
  #closed = false
  /** The other side sends nothing more. */
  #remoteEnded = false
  #onRemoteEnd: () => void = () => {}
  #onFrame: ((frame: Uint8Array) => void) | undefined
  onClose: (error: Error | undefined) => void = () => {}

  constructor(stream: Stream, limits: FrameLimits) {
    this.#stream = stream
    this.#limits = limits
    stream.addEventListener('message', (event) => {
      const data = event.data
      try {
        for (const part of data instanceof Uint8Array ? [data] : data) this.#take(part)
      } catch (error) {
        this.abort(error instanceof Error ? error : new Error(String(error)))
      }
    })
    const closed = (error: Error | undefined) => {
      if (this.#closed) return
      this.#closed = true
      this.#frame = undefined
      this.onClose(error)
    }
    stream.addEventListener('remoteCloseWrite', () => {
      this.#remoteEnded = true
      this.#onRemoteEnd()
      if (stream.writeStatus === 'closed') closed(undefined)
    })
    stream.addEventListener('close', (event) => closed(event.error))
    // One that was refused before anybody listened says so no more: whoever uses it would wait for ever.
    if (stream.status === 'reset' || stream.status === 'aborted')
      queueMicrotask(() => closed(new FlotillaError('UNREACHABLE', 'the peer refused the stream')))
  }

  /** Who gets the frames; those that came before are delivered at once. */
  set onFrame(listener: (frame: Uint8Array) => void) {
    this.#onFrame = listener
    for (
      let frame = this.#early.shift();
      frame !== undefined && this.#onFrame === listener;
      frame = this.#early.shift()
    ) {
      listener(frame)
    }
  }

  /** Nobody waits for an answer any more. */
  get ended(): boolean {
    return this.closed || this.#remoteEnded
  }

  get closed(): boolean {
    return this.#closed || this.#stream.writeStatus !== 'writable'
  }

  /** Copies into one buffer as long as the frame, whatever the size of the parts: many tiny ones cost no memory. */
  #take(part: Uint8Array): void {
    let at = 0
    while (at < part.length && !this.#closed) {
      if (this.#frame === undefined) {
        const use = Math.min(5 - this.#headBytes, part.length - at)
        this.#head.set(part.subarray(at, at + use), this.#headBytes)
        this.#headBytes += use
        at += use
        if (this.#headBytes < 5) return
        this.#begin()
      } else {
        const use = Math.min(this.#frame.length - this.#frameBytes, part.length - at)
        this.#frame.set(part.subarray(at, at + use), this.#frameBytes)
        this.#frameBytes += use
        at += use
      }
      this.#finishIfWhole()
    }
  }

  #begin(): void {
    const length = this.#head.readUInt32LE(0)
    const limit = this.#limits.maxFrameBytes(this.#head[4] ?? 0)
    if (length === 0 || length > limit) {
      throw new FlotillaError('BAD_FRAME', `frame of ${length} bytes; at most ${limit} are read`)
    }
    this.#frame = Buffer.allocUnsafeSlow(length)
    this.#frame[0] = this.#head[4] ?? 0
    this.#frameBytes = 1
  }

  #finishIfWhole(): void {
    const frame = this.#frame
    if (frame === undefined || this.#frameBytes < frame.length) return
    this.#frame = undefined
    this.#headBytes = 0
    if (this.#onFrame !== undefined) this.#onFrame(frame)
    else if (this.#early.length < 4) this.#early.push(frame)
    else this.abort(new FlotillaError('BAD_FRAME', 'frames that nobody waits for'))
  }

  /** Sends one frame. True when more may be sent at once; false means `await drained()` first. */
  send(body: Uint8Array): boolean {
    if (this.closed) return true
    // One buffer, one encrypted message, one write: a header of its own would cost three more of each.
    const frame = Buffer.allocUnsafe(4 + body.length)
    frame.writeUInt32LE(body.length, 0)
    frame.set(body, 4)
    try {
      return this.#stream.send(frame)
    } catch (error) {
      this.abort(error instanceof Error ? error : new Error(String(error)))
      return true
    }
  }

  /** Resolves when the stream takes more, or is closed. */
  drained(): Promise<void> {
    if (this.closed || !this.#stream.writableNeedsDrain) return Promise.resolve()
    return new Promise((resolve) => {
      const done = () => {
        this.#stream.removeEventListener('drain', done)
        this.#stream.removeEventListener('close', done)
        resolve()
      }
      this.#stream.addEventListener('drain', done)
      this.#stream.addEventListener('close', done)
    })
  }

  abort(error: Error): void {
    this.#stream.abort(error)
  }

  async close(): Promise<void> {
    if (this.#stream.writeStatus === 'writable')
      await this.#stream.close({ signal: AbortSignal.timeout(2_000) }).catch(() => {})
  }

  /** Waits for one frame. @throws FlotillaError TIMEOUT, UNREACHABLE when the other side closes */
  next(timeoutMs: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.abort(new Error('timeout'))
        reject(new FlotillaError('TIMEOUT', `peer did not answer within ${timeoutMs} ms`))
      }, timeoutMs)
      const early = this.#early.shift()
      if (early !== undefined) {
        clearTimeout(timer)
        resolve(early)
        return
      }
      this.onFrame = (frame) => {
        clearTimeout(timer)
        this.#onFrame = undefined
        resolve(frame)
      }
      const end = (cause?: Error) => {
        clearTimeout(timer)
        reject(new FlotillaError('UNREACHABLE', 'peer closed the stream before it answered', { cause }))
      }
      this.onClose = end
      this.#onRemoteEnd = end
      if (this.#closed || this.#remoteEnded) end()
    })
  }
}
