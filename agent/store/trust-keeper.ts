import { createHash } from 'node:crypto'
import { FlotillaError } from '../../protocol/errors.ts'
import { type FleetPolicy, parseFleetPolicy } from '../../protocol/membership/fleet-policy.ts'
import type { TrustVersions } from '../../protocol/network/hello.ts'
import { findPolicy } from '../../protocol/release/find-release.ts'
import { bundleFor, judgeBundle, type MetadataBundle } from '../../protocol/trust/metadata-bundle.ts'
import { DEVICE_RULES, type TrustedSet } from '../../protocol/trust/trusted-set.ts'
import type { StoredTrust, TrustStore } from './trust-store.ts'

/** What came of a bundle from a peer. */
export type TakeVerdict = { readonly changed: boolean; readonly refusal: FlotillaError | undefined }

/** Holds what this device trusts, takes what is newer, and gives it to others. Every change is on disk before it counts. */
export class TrustKeeper {
  readonly #store: TrustStore
  readonly #fleet: string
  #trust: StoredTrust
  #policy: FleetPolicy
  #busy: Promise<unknown> = Promise.resolve()

  /** @throws FlotillaError MISSING when no policy of the fleet is there */
  constructor(store: TrustStore, trust: StoredTrust, fleet: string) {
    this.#store = store
    this.#trust = trust
    this.#fleet = fleet
    const policy = this.#matchPolicy(trust.set, trust.policy)
    if (policy === undefined)
      throw new FlotillaError(
        'MISSING',
        `read trust: no policy of fleet ${fleet} is stored; provision the device again`,
      )
    this.#policy = policy
  }

  get set(): TrustedSet {
    return this.#trust.set
  }

  get policy(): FleetPolicy {
    return this.#policy
  }

  get versions(): TrustVersions {
    return { root: this.set.root.data.version, timestamp: this.set.timestamp?.data.version ?? 0 }
  }

  /** What a peer that holds `have` is missing. */
  bundleFor(have: TrustVersions): MetadataBundle {
    return bundleFor(this.set, this.#trust.roots, have, this.#trust.policy)
  }

  /** Judges a bundle and commits what is good: roots at once, the rest as a whole. One at a time. */
  take(bundle: MetadataBundle): Promise<TakeVerdict> {
    const run = this.#busy.then(() => this.#take(bundle))
    this.#busy = run.catch(() => {})
    return run
  }

  async #take(bundle: MetadataBundle): Promise<TakeVerdict> {
    const verdict = judgeBundle(this.set, bundle, DEVICE_RULES)
    if (!verdict.changed) return { changed: false, refusal: verdict.refusal }
    const roots = [...this.#trust.roots, ...verdict.newRoots]
    const pointer = findPolicy(verdict.set, this.#fleet, DEVICE_RULES)
    const bytes = [bundle.policy, this.#trust.policy].find((candidate) => this.#isPolicy(candidate, pointer?.sha256))
    if (pointer !== undefined && bytes === undefined) {
      if (verdict.newRoots.length > 0)
        await this.#commit({ set: verdict.rooted, roots, policy: this.#trust.policy }, verdict.newRoots)
      return {
        changed: verdict.newRoots.length > 0,
        refusal: new FlotillaError('MISSING', 'bundle: the fleet policy was withheld'),
      }
    }
    await this.#commit({ set: verdict.set, roots, policy: bytes ?? this.#trust.policy }, verdict.newRoots)
    return { changed: true, refusal: verdict.refusal }
  }

  async #commit(next: StoredTrust, newRoots: readonly Uint8Array[]): Promise<void> {
    const policy = this.#matchPolicy(next.set, next.policy)
    await this.#store.save(next.set, newRoots, next.policy)
    this.#trust = next
    if (policy !== undefined) this.#policy = policy
  }

  #isPolicy(bytes: Uint8Array | undefined, sha256: string | undefined): boolean {
    return bytes !== undefined && createHash('sha256').update(bytes).digest('hex') === sha256
  }

  // Between a new root and the set that goes with it no role may verify; the stored policy, which was verified when it
  // came, then still says who is a member, so that the device can get the rest.
  #matchPolicy(set: TrustedSet, bytes: Uint8Array | undefined): FleetPolicy | undefined {
    const pointer = findPolicy(set, this.#fleet, DEVICE_RULES)
    if (bytes === undefined || (pointer !== undefined && !this.#isPolicy(bytes, pointer.sha256))) return undefined
    return parseFleetPolicy(bytes)
  }
}
