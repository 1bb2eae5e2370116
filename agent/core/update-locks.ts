import { join } from 'node:path'
import { WishList } from '../control/wish-list.ts'
import { type Hold, readHoldFile } from '../control/reboot-gate.ts'

/** Wishes of containers not to be stopped: a file `hold` in the directory that is mounted for it, or over the local API. */
export class UpdateLocks {
  readonly #directory: string
  readonly #wishes = new Map<string, WishList<Hold>>()

  /** @param directory - holds one directory for each container that has `updateLock` */
  constructor(directory: string) {
    this.#directory = directory
  }

  add(container: string, reason: string, seconds: number): void {
    const list = this.#wishes.get(container) ?? new WishList<Hold>()
    list.add({ reason, untilMs: performance.now() + seconds * 1_000 })
    this.#wishes.set(container, list)
  }

  /** Ends those with this reason, or all. @returns how many are left */
  release(container: string, reason: string | undefined): number {
    return this.#wishes.get(container)?.release(reason) ?? 0
  }

  /** Why each of these containers must not be stopped now. The file is a container's word: it is read with a bound. */
  async holds(containers: Iterable<string>): Promise<ReadonlyMap<string, string>> {
    const found = new Map<string, string>()
    for (const name of containers) {
      const file = await readHoldFile(join(this.#directory, name, 'hold'), Date.now(), performance.now(), true)
      const said = this.#wishes.get(name)?.current(performance.now()) ?? []
      const hold = [...(file === undefined ? [] : [file]), ...said].find(({ untilMs }) => untilMs > performance.now())
      if (hold !== undefined) found.set(name, hold.reason)
    }
    return found
  }
}
