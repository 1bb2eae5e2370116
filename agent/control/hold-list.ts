import { type Hold, readHoldFile } from './reboot-gate.ts'

const MOST = 32

/** The wishes of the robot not to be rebooted: those of the local socket and the one of the hold file. */
export class HoldList {
  readonly #file: string
  #holds: Hold[] = []

  constructor(file: string) {
    this.#file = file
  }

  /** Adds a hold, or renews the one with the same reason. */
  add(reason: string, seconds: number): void {
    const others = this.#holds.filter((hold) => hold.reason !== reason)
    this.#holds = [...others, { reason, untilMs: performance.now() + seconds * 1_000 }].slice(-MOST)
  }

  /** Ends the hold with this reason, or all. @returns how many are left */
  release(reason: string | undefined): number {
    this.#holds = this.#holds.filter((hold) => reason !== undefined && hold.reason !== reason)
    return this.#holds.length
  }

  async current(): Promise<readonly Hold[]> {
    const file = await readHoldFile(this.#file, Date.now(), performance.now())
    this.#holds = this.#holds.filter((hold) => hold.untilMs > performance.now())
    return file === undefined ? this.#holds : [file, ...this.#holds]
  }
}
