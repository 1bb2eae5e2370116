import { createHash } from 'node:crypto'
import type { SignedRecord } from './device-record.ts'

/** A record with the time since it was last renewed, as far as this device knows. */
export type HeardRecord = { readonly signed: SignedRecord; readonly ageMs: number }

/** One line of a digest: device and the sequence held of it. */
export type DigestLine = { readonly device: string; readonly seq: number }

/** Bounds of the book. A record older than `meshMs` is no longer passed on; older than `forgetMs` it is dropped. */
export type BookLimits = { readonly records: number; readonly meshMs: number; readonly forgetMs: number }
export const DEFAULT_BOOK_LIMITS: BookLimits = { records: 2_000, meshMs: 7 * 86_400_000, forgetMs: 90 * 86_400_000 }

/**
 * The newest record of every device, with its age. State, not events: whatever order and however often records
 * arrive, two devices that exchanged digests hold the same. No I/O; time is an argument (monotonic milliseconds).
 * @see protocol/spec/gossip.md, "Merge"
 */
export class RecordBook {
  readonly #records = new Map<string, { readonly signed: SignedRecord; readonly heardMs: number }>()
  readonly #limits: BookLimits

  constructor(limits: BookLimits = DEFAULT_BOOK_LIMITS) {
    this.#limits = limits
  }

  /**
   * Takes a verified record. True when it is newer than what was held.
   * @param ageMs - how old the sender says it is; advisory, never makes a record newer
   */
  merge(signed: SignedRecord, ageMs: number, nowMs: number): boolean {
    const held = this.#records.get(signed.record.device)
    if (held !== undefined && held.signed.record.seq >= signed.record.seq) return false
    if (held === undefined && this.#records.size >= this.#limits.records && !this.#evictOldest(nowMs - ageMs))
      return false
    this.#records.set(signed.record.device, { signed, heardMs: nowMs - Math.max(0, ageMs) })
    return true
  }

  /** Drops the records that are not to be kept: after the policy changed. */
  retain(keep: (signed: SignedRecord) => boolean): void {
    for (const [device, { signed }] of this.#records) if (!keep(signed)) this.#records.delete(device)
  }

  #evictOldest(newerThanMs: number): boolean {
    let oldest: { device: string; heardMs: number } | undefined
    for (const [device, { heardMs }] of this.#records) {
      if (oldest === undefined || heardMs < oldest.heardMs) oldest = { device, heardMs }
    }
    if (oldest === undefined || oldest.heardMs >= newerThanMs) return false
    return this.#records.delete(oldest.device)
  }

  /** Devices known. */
  get size(): number {
    return this.#records.size
  }

  get(device: string): SignedRecord | undefined {
    return this.#records.get(device)?.signed
  }

  /** Everything that is remembered, for the operator's view; forgets what is too old. */
  all(nowMs: number): readonly HeardRecord[] {
    for (const [device, { heardMs }] of this.#records) {
      if (nowMs - heardMs > this.#limits.forgetMs) this.#records.delete(device)
    }
    return [...this.#records.values()].map(({ signed, heardMs }) => ({ signed, ageMs: nowMs - heardMs }))
  }

  /** What is still passed on in the mesh. */
  #mesh(nowMs: number): readonly HeardRecord[] {
    return this.all(nowMs).filter(({ ageMs }) => ageMs <= this.#limits.meshMs)
  }

  /** Hash of the sorted digest: equal on two devices that hold the same, 32 bytes instead of a list. */
  summary(nowMs: number): string {
    const hash = createHash('sha256')
    for (const { device, seq } of this.digest(nowMs)) hash.update(`${device} ${seq}\n`)
    return hash.digest('hex')
  }

  /** Device and sequence of every record in the mesh, sorted by device. */
  digest(nowMs: number): readonly DigestLine[] {
    return this.#mesh(nowMs)
      .map(({ signed }) => ({ device: signed.record.device, seq: signed.record.seq }))
      .sort((a, b) => (a.device < b.device ? -1 : 1))
  }

  /** The records that somebody with the given digest lacks or has older. */
  newerThan(digest: readonly DigestLine[], nowMs: number): readonly HeardRecord[] {
    const theirs = new Map(digest.map(({ device, seq }) => [device, seq]))
    return this.#mesh(nowMs).filter(({ signed }) => (theirs.get(signed.record.device) ?? -1) < signed.record.seq)
  }
}
