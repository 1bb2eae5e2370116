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
  #missing: number[]

  constructor(index: ChunkIndex, have: Bitmap, priority: number | undefined) {
    this.index = index
    this.have = have.clone()
    this.priority = priority
    this.availability = new Uint16Array(index.count)
    this.#missing = Array.from({ length: index.count }, (_, at) => at).filter((at) => !have.has(at))
  }

  /** Chunks that are neither here nor being written. */
  get left(): number {
    return this.have.size - this.have.count - this.storing.size
  }

  /**
   * Chunks that are not here, in any order. Some that came in lately may still be named, unless few are left: the list
   * is made anew only when that pays.
   */
  missing(): readonly number[] {
    const few = this.left <= 64
    if (few || this.#missing.length > (this.have.size - this.have.count) * 1.1 + 16) {
      this.#missing = this.#missing.filter((chunk) => !this.have.has(chunk) && !(few && this.storing.has(chunk)))
    }
    return this.#missing
  }

  /** A chunk that was here is not. */
  lose(chunk: number): boolean {
    if (!this.have.remove(chunk)) return false
    this.#missing.push(chunk)
    return true
  }

  /** A chunk that was being written was not kept: it is missing again. */
  keepMissing(chunk: number): void {
    if (!this.have.has(chunk) && !this.#missing.includes(chunk)) this.#missing.push(chunk)
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

  requested(chunk: number, peer: string): void {
    const askers = this.requests.get(chunk) ?? new Set()
    this.requests.set(chunk, askers.add(peer))
  }

  unrequested(chunk: number, peer: string): void {
    const askers = this.requests.get(chunk)
    askers?.delete(peer)
    if (askers?.size === 0) this.requests.delete(chunk)
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
