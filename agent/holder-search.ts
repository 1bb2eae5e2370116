import type { RecordBook } from '../protocol/gossip/record-book.ts'
import type { FleetNode } from '../protocol/network/fleet-node.ts'

/** Older records say little about who is there. */
const RECENT_MS = 15 * 60_000
/** A neighbour that only claims to have it must not keep others from being asked. */
const STUCK_MS = 15_000
const MAX_SOUGHT = 3

/**
 * Neighbours need not have what this device needs. When nothing of it comes, devices are looked for that say in their record
 * that they hold the whole of it. A device on a radio looks for one on a wire, too, while only other stations near it hold it:
 * from those everything takes the air up twice.
 */
export class HolderSearch {
  readonly #book: RecordBook
  readonly #node: FleetNode
  readonly #isOnRadio: () => boolean
  #bytes = 0
  #movedMs = -Infinity

  /** @param isOnRadio - whether all links of this device are radios */
  constructor(book: RecordBook, node: FleetNode, isOnRadio: () => boolean) {
    this.#book = book
    this.#node = node
    this.#isOnRadio = isOnRadio
  }

  /**
   * @param release - what the device is told to run and does not have whole; undefined when there is nothing
   * @param fetchedBytes - what has come so far, of whatever
   */
  seek(release: string | undefined, fetchedBytes: number): void {
    const nowMs = performance.now()
    if (fetchedBytes !== this.#bytes) this.#movedMs = nowMs
    this.#bytes = fetchedBytes
    if (release === undefined) return
    const holders = this.#book
      .all(nowMs)
      .filter(({ ageMs, signed: { record } }) => ageMs < RECENT_MS && record.holds.includes(release))
      .map(({ signed: { record } }) => record)
      .filter(({ device }) => device !== this.#node.id)
    const isHolder = new Set(holders.map(({ device }) => device))
    const near = this.#node.members().filter(({ id }) => isHolder.has(id))
    const isMoving = near.length > 0 && nowMs - this.#movedMs < STUCK_MS
    if (isMoving && (!this.#isOnRadio() || near.some(({ radioHops }) => radioHops < 2))) return
    // In random order: at seeding everybody looks for the same few.
    const far = holders
      .filter(({ device, radio }) => !this.#node.isMember(device) && !(isMoving && radio))
      .map(({ device }) => device)
      .sort(() => Math.random() - 0.5)
    let sought = 0
    for (const id of far) {
      if (sought >= MAX_SOUGHT) return
      if (this.#node.seek(id)) sought += 1
    }
  }
}
