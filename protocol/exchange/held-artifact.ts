import type { ChunkIndex } from '../chunks/chunk-index.ts'
import { Bitmap } from './bitmap.ts'

/** An artifact on this device, whole or in part, and what is going on about it. */
export class HeldArtifact {
  readonly index: ChunkIndex
  readonly have: Bitmap
  /** Lower goes first; undefined when it is only offered. */
  priority: number | undefined
  /** How many peers hold each chunk. */
  readonly availability: Uint16Array
  /** Chunks that were given to nobody from here, in a random order; undefined until somebody asks. */
  #ungiven: number[] | undefined
  /** Peers that each missing chunk was asked of. */
  readonly requests = new Map<number, Set<string>>()
  /** Chunks that arrived and are being verified and written, with their lengths. */
  readonly storing = new Map<number, number>()
  /** Chunks that came in and were not announced yet. */
  gained: number[] = []
  /** Chunks that are not here, not being written and not asked of anybody: kept as bits, since it is looked at all the time. */
  readonly open: Bitmap

  constructor(index: ChunkIndex, have: Bitmap, priority: number | undefined) {
    this.index = index
    this.have = have.clone()
    this.priority = priority
    this.availability = new Uint16Array(index.count)
    this.open = new Bitmap(index.count)
    for (let chunk = 0; chunk < index.count; chunk += 1) this.#review(chunk)
  }

  /** Chunks that are neither here nor being written. */
  get left(): number {
    return this.have.size - this.have.count - this.storing.size
  }

  /** The chunk is here now. @returns false when it was before */
  gain(chunk: number): boolean {
    const fresh = this.have.add(chunk)
    this.#review(chunk)
    return fresh
  }

  /** A chunk that was here is not. */
  lose(chunk: number): boolean {
    const lost = this.have.remove(chunk)
    this.#review(chunk)
    return lost
  }

  /** The chunk arrived and is being written. */
  beginStoring(chunk: number, lengthBytes: number): void {
    this.storing.set(chunk, lengthBytes)
    this.#review(chunk)
  }

  /** It was written, or will not be. @returns its length */
  endStoring(chunk: number): number {
    const lengthBytes = this.storing.get(chunk) ?? 0
    this.storing.delete(chunk)
    this.#review(chunk)
    return lengthBytes
  }

  requested(chunk: number, peer: string): void {
    const askers = this.requests.get(chunk) ?? new Set()
    this.requests.set(chunk, askers.add(peer))
    this.#review(chunk)
  }

  unrequested(chunk: number, peer: string): void {
    const askers = this.requests.get(chunk)
    askers?.delete(peer)
    if (askers?.size === 0) this.requests.delete(chunk)
    this.#review(chunk)
  }

  #review(chunk: number): void {
    if (this.have.has(chunk) || this.storing.has(chunk) || this.requests.has(chunk)) this.open.remove(chunk)
    else this.open.add(chunk)
  }

  /** Up to `most` open chunks of those in `has`, from a random place on: the rarest of some hundred is rare enough. */
  sampleOpen(has: Bitmap, most: number, random: () => number): number[] {
    const found: number[] = []
    const { bytes } = this.open
    const start = Math.floor(random() * bytes.length)
    for (let n = 0; n < bytes.length; n += 1) {
      const at = (start + n) % bytes.length
      for (let both = (bytes[at] ?? 0) & (has.bytes[at] ?? 0); both !== 0; both &= both - 1) {
        if (found.length >= most) return found
        found.push(at * 8 + 31 - Math.clz32(both & -both))
      }
    }
    return found
  }

  /** For the endgame: missing chunks of those in `has` that were asked of one other peer only. */
  askedOnce(has: Bitmap, peer: string): number[] {
    const found: number[] = []
    for (const [chunk, askers] of this.requests) {
      if (askers.size === 1 && !askers.has(peer) && has.has(chunk) && !this.have.has(chunk) && !this.storing.has(chunk))
        found.push(chunk)
    }
    return found
  }

  /** One chunk of the bitmap that was given to nobody from here, or undefined when all were. */
  takeUngiven(wanted: Bitmap, random: () => number): number | undefined {
    this.#ungiven ??= shuffled(this.index.count, random)
    for (let at = this.#ungiven.length - 1; at >= 0; at -= 1) {
      const chunk = this.#ungiven[at] ?? 0
      if (!wanted.has(chunk) || !this.have.has(chunk)) continue
      this.#ungiven.splice(at, 1)
      return chunk
    }
    return undefined
  }

  /** The chunk leaves for somebody who asked for it by number. */
  give(chunk: number): void {
    const at = this.#ungiven?.indexOf(chunk) ?? -1
    if (at >= 0) this.#ungiven?.splice(at, 1)
  }

  /** Counts a peer's chunks in or out. */
  countAvailability(bits: Bitmap, by: 1 | -1): void {
    for (let at = 0; at < bits.size; at += 1) if (bits.has(at)) this.addAvailability(at, by)
  }

  addAvailability(chunk: number, by: 1 | -1): void {
    this.availability[chunk] = Math.max(0, (this.availability[chunk] ?? 0) + by)
  }
}

function shuffled(count: number, random: () => number): number[] {
  const numbers = Array.from({ length: count }, (_, at) => at)
  for (let at = count - 1; at > 0; at -= 1) {
    const other = Math.floor(random() * (at + 1))
    const swap = numbers[at] ?? 0
    numbers[at] = numbers[other] ?? 0
    numbers[other] = swap
  }
  return numbers
}
