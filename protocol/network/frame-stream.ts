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
  #parts: Uint8Array[] = []
  #buffered = 0
  #wantedBytes = -1
  #closed = false
  onFrame: (frame: Uint8Array) => void = () => {}
  onClose: (error: Error | undefined) => void = () => {}

  constructor(stream: Stream, limits: FrameLimits) {
    this.#stream = stream
    this.#limits = limits
    stream.addEventListener('message', (event) => {
      const data = event.data
      for (const part of data instanceof Uint8Array ? [data] : data) this.#parts.push(part)
      this.#buffered += data.byteLength
      try {
        this.#deliver()
      } catch (error) {
        this.abort(error instanceof Error ? error : new Error(String(error)))
      }
    })
    const closed = (error: Error | undefined) => {
      if (this.#closed) return
      this.#closed = true
      this.#parts = []
      this.onClose(error)
    }
    stream.addEventListener('remoteCloseWrite', () => {
      if (stream.writeStatus === 'closed') closed(undefined)
    })
    stream.addEventListener('close', (event) => closed(event.error))
  }

  get closed(): boolean {
    return this.#closed || this.#stream.writeStatus !== 'writable'
  }

  #deliver(): void {
    while (!this.#closed) {
      if (this.#wantedBytes < 0) {
        if (this.#buffered < 5) return
        const head = this.#peek(5)
        const length = head.readUInt32LE(0)
        const limit = this.#limits.maxFrameBytes(head[4] ?? 0)
        if (length === 0 || length > limit) {
          throw new FlotillaError('BAD_FRAME', `frame of ${length} bytes; at most ${limit} are read`)
        }
        this.#take(4)
        this.#wantedBytes = length
      }
      if (this.#buffered < this.#wantedBytes) return
      const frame = this.#take(this.#wantedBytes)
      this.#wantedBytes = -1
      this.onFrame(frame)
    }
  }

  #peek(bytes: number): Buffer {
    const first = this.#parts[0]
    if (first !== undefined && first.length >= bytes) return Buffer.from(first.buffer, first.byteOffset, bytes)
    return Buffer.concat(this.#parts.slice(0, bytes), Math.min(bytes, this.#buffered))
  }

  #take(bytes: number): Uint8Array {
    const first = this.#parts[0]
    this.#buffered -= bytes
    if (first !== undefined && first.length > bytes) {
      this.#parts[0] = first.subarray(bytes)
      return first.subarray(0, bytes)
    }
    const taken = Buffer.allocUnsafeSlow(bytes)
    let at = 0
    while (at < bytes) {
      const part = this.#parts[0]
      if (part === undefined) break
      const use = Math.min(part.length, bytes - at)
      taken.set(use === part.length ? part : part.subarray(0, use), at)
      at += use
      if (use === part.length) this.#parts.shift()
      else this.#parts[0] = part.subarray(use)
    }
    return taken
  }

  /** Sends one frame. True when more may be sent at once; false means `await drained()` first. */
  send(body: Uint8Array): boolean {
    if (this.closed) return true
    const header = Buffer.allocUnsafe(4)
    header.writeUInt32LE(body.length, 0)
    try {
      this.#stream.send(header)
      return this.#stream.send(body)
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
      this.onFrame = (frame) => {
        clearTimeout(timer)
        this.onFrame = () => {}
        resolve(frame)
      }
      this.onClose = (cause) => {
        clearTimeout(timer)
        reject(new FlotillaError('UNREACHABLE', 'peer closed the stream before it answered', { cause }))
      }
      this.#deliver()
    })
  }
}
