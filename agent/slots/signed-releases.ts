import { findReleases, type ReleasePointer } from '../../protocol/release/find-release.ts'
import { DEVICE_RULES, type TrustedSet } from '../../protocol/trust/trusted-set.ts'

/** What is signed for this device at the moment. */
export class SignedReleases {
  readonly #trusted: () => TrustedSet
  readonly #board: string
  readonly #channel: string

  constructor(trusted: () => TrustedSet, board: string, channel: string) {
    this.#trusted = trusted
    this.#board = board
    this.#channel = channel
  }

  /** The current release, then its stepping stones. @throws FlotillaError EXPIRED when the role expired */
  pointers(): readonly ReleasePointer[] {
    return findReleases(this.#trusted(), this.#board, this.#channel, DEVICE_RULES)
  }

  /** The era that releases must have. */
  get era(): number {
    return this.#trusted().roles.get('targets')?.data.era ?? 0
  }

  /**
   * Whether a release that is being fetched or waits is still signed and not halted. While `targets` metadata is missing
   * (between a new root and the set that goes with it) nobody can say.
   */
  stillHolds(id: string | undefined): 'yes' | 'no' | 'unknown' {
    if (!this.#trusted().roles.has('targets')) return 'unknown'
    // Expired between staging and reboot: a finished stage is not thrown away (facts/ota-systems.md D 22).
    const pointers = this.#unlessExpired()
    if (pointers === undefined) return 'yes'
    return pointers.some(({ sha256, halted }) => sha256 === id && halted === undefined) ? 'yes' : 'no'
  }

  /** The current release, when it is not halted. */
  newest(): string | undefined {
    const [current] = this.#unlessExpired() ?? []
    return current?.halted === undefined ? current?.sha256 : undefined
  }

  /** How many waves of a release the operator has opened. */
  openWaves(id: string): number {
    return this.#unlessExpired()?.find(({ sha256 }) => sha256 === id)?.openWaves ?? 0
  }

  #unlessExpired(): readonly ReleasePointer[] | undefined {
    try {
      return this.pointers()
    } catch {
      return undefined
    }
  }
}
