import { FlotillaError } from '../errors.ts'

/** A fixed-size set of chunk numbers; bit `i` is bit `i % 8` of byte `i / 8`. */
export class Bitmap {
  readonly size: number
  readonly bytes: Uint8Array
  #count = 0

  constructor(size: number, bytes: Uint8Array = new Uint8Array(Math.ceil(size / 8))) {
    if (bytes.length !== Math.ceil(size / 8)) {
      throw new FlotillaError('BAD_FRAME', `bitmap: ${bytes.length} bytes do not hold ${size} bits`)
    }
    this.size = size
    this.bytes = bytes
    for (let at = 0; at < size; at += 1) if (this.has(at)) this.#count += 1
  }

  static full(size: number): Bitmap {
    const bytes = new Uint8Array(Math.ceil(size / 8)).fill(0xff)
    if (size % 8 !== 0) bytes[bytes.length - 1] = (1 << (size % 8)) - 1
    return new Bitmap(size, bytes)
  }

  get count(): number {
    return this.#count
  }

  get complete(): boolean {
    return this.#count === this.size
  }

  has(at: number): boolean {
    return at >= 0 && at < this.size && ((this.bytes[at >> 3] ?? 0) & (1 << (at & 7))) !== 0
  }

  /** Returns true when the bit was not set before. */
  add(at: number): boolean {
    if (at < 0 || at >= this.size || this.has(at)) return false
    this.bytes[at >> 3] = (this.bytes[at >> 3] ?? 0) | (1 << (at & 7))
    this.#count += 1
    return true
  }

  remove(at: number): boolean {
    if (!this.has(at)) return false
    this.bytes[at >> 3] = (this.bytes[at >> 3] ?? 0) & ~(1 << (at & 7))
    this.#count -= 1
    return true
  }

  /** What is here and in none of the others. */
  without(others: readonly Bitmap[]): Bitmap {
    const bytes = this.bytes.slice()
    for (const other of others)
      for (let at = 0; at < bytes.length; at += 1) bytes[at] = (bytes[at] ?? 0) & ~(other.bytes[at] ?? 0)
    return new Bitmap(this.size, bytes)
  }

  clone(): Bitmap {
    return new Bitmap(this.size, this.bytes.slice())
  }
}
