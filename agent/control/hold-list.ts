import { type Hold, readHoldFile } from './reboot-gate.ts'
import { WishList } from './wish-list.ts'

/** The wishes of the robot not to be rebooted: those of the local socket and the one of the hold file. */
export class HoldList {
  readonly #file: string
  readonly #holds = new WishList<Hold>()

  constructor(file: string) {
    this.#file = file
  }

  /** Adds a hold, or renews the one with the same reason. */
  add(reason: string, seconds: number): void {
    this.#holds.add({ reason, untilMs: performance.now() + seconds * 1_000 })
  }

  /** Ends the hold with this reason, or all. @returns how many are left */
  release(reason: string | undefined): number {
    return this.#holds.release(reason)
  }

  async current(): Promise<readonly Hold[]> {
    const file = await readHoldFile(this.#file, Date.now(), performance.now())
    const holds = this.#holds.current(performance.now())
    return file === undefined ? holds : [file, ...holds]
  }
}
