import { FlotillaError, messageOf } from '../errors.ts'
import {
  acceptRole,
  acceptRoot,
  acceptSnapshot,
  acceptTimestamp,
  hasCurrentRole,
  hasCurrentSnapshot,
  MAX_ROOT_STEPS,
  requireFreshRoot,
  type TrustedSet,
  type TrustRules,
} from './trusted-set.ts'

/** What one peer hands over in answer to a metadata request, or what lies on a USB stick. All bytes unverified. */
export type MetadataBundle = {
  readonly roots: readonly Uint8Array[]
  readonly timestamp: Uint8Array | undefined
  readonly snapshot: Uint8Array | undefined
  readonly roles: ReadonlyMap<string, Uint8Array>
  /** The fleet policy that the set names, so that membership never waits for another transfer. */
  readonly policy: Uint8Array | undefined
}

/** What came of a bundle. `rootOnly` may be committed at once even when the rest was refused. */
export type BundleVerdict = {
  readonly set: TrustedSet
  /** The set after the roots alone: what may be kept when something else of the bundle is missing. */
  readonly rooted: TrustedSet
  readonly newRoots: readonly Uint8Array[]
  readonly changed: boolean
  readonly refusal: FlotillaError | undefined
}

/**
 * Judges a bundle in the order of facts/trust.md 4.6: root chain, timestamp, snapshot, targets, every role
 * that the snapshot lists. Nothing but roots is kept unless the whole set is complete, so that a peer that
 * shows a newer timestamp and withholds the rest blocks nobody. Pure; a refusal is a value.
 */
export function judgeBundle(current: TrustedSet, bundle: MetadataBundle, rules: TrustRules): BundleVerdict {
  let rooted = current
  const newRoots: Uint8Array[] = []
  try {
    if (bundle.roots.length > MAX_ROOT_STEPS) throw new FlotillaError('LIMIT', 'bundle: more than 64 roots')
    for (const bytes of bundle.roots) {
      rooted = acceptRoot(rooted, bytes, rules)
      newRoots.push(bytes)
    }
    requireFreshRoot(rooted, rules)
  } catch (error) {
    return { set: rooted, rooted, newRoots, changed: newRoots.length > 0, refusal: asRefusal(error) }
  }
  try {
    const set = acceptRest(rooted, bundle, rules)
    return { set, rooted, newRoots, changed: newRoots.length > 0 || set !== rooted, refusal: undefined }
  } catch (error) {
    return { set: rooted, rooted, newRoots, changed: newRoots.length > 0, refusal: asRefusal(error) }
  }
}

function asRefusal(error: unknown): FlotillaError {
  return error instanceof FlotillaError ? error : new FlotillaError('FORMAT', messageOf(error), { cause: error })
}

function acceptRest(rooted: TrustedSet, bundle: MetadataBundle, rules: TrustRules): TrustedSet {
  if (bundle.timestamp === undefined) return rooted
  let set = acceptTimestamp(rooted, bundle.timestamp, rules)
  if (!hasCurrentSnapshot(set)) {
    if (bundle.snapshot === undefined) throw new FlotillaError('MISSING', 'bundle: the snapshot was withheld')
    set = acceptSnapshot(set, bundle.snapshot, rules)
  }
  set = acceptOrKeep(set, 'targets', 'root', bundle, rules)
  const listed = [...(set.snapshot?.data.meta.keys() ?? [])].filter((name) => name !== 'targets')
  for (const name of listed) set = acceptOrKeep(set, name, 'targets', bundle, rules)
  const roles = new Map([...set.roles].filter(([name]) => name === 'targets' || listed.includes(name)))
  return set === rooted ? rooted : { ...set, roles }
}

function acceptOrKeep(
  set: TrustedSet,
  name: string,
  delegator: string,
  bundle: MetadataBundle,
  rules: TrustRules,
): TrustedSet {
  if (hasCurrentRole(set, name, delegator)) return set
  const bytes = bundle.roles.get(name)
  if (bytes === undefined) throw new FlotillaError('MISSING', `bundle: ${name} metadata was withheld`)
  // One lapsed role (a dev channel nobody tends) must not hold back the others: whoever uses a role judges its expiry.
  const expiry = rules.expiry.mode === 'floor' ? { mode: 'never' as const } : rules.expiry
  return acceptRole(set, name, delegator, bytes, { ...rules, expiry })
}

/**
 * The whole set as a bundle for a peer that holds `have`; only what is newer is put in. Pure.
 * @param archive - every root from the first one this device knew to the present one, in order
 */
export function bundleFor(
  set: TrustedSet,
  archive: readonly Uint8Array[],
  have: { readonly root: number; readonly timestamp: number },
  policy: Uint8Array | undefined,
): MetadataBundle {
  const start = have.root + 1 - (set.root.data.version - archive.length + 1)
  const roots = start < 0 ? [] : archive.slice(start, start + MAX_ROOT_STEPS)
  if ((set.timestamp?.data.version ?? 0) <= have.timestamp && roots.length === 0) {
    return { roots: [], timestamp: undefined, snapshot: undefined, roles: new Map(), policy: undefined }
  }
  return {
    roots,
    timestamp: set.timestamp?.bytes,
    snapshot: set.snapshot?.bytes,
    roles: new Map([...set.roles].map(([name, file]) => [name, file.bytes])),
    policy,
  }
}
