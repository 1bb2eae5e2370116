import { createHash } from 'node:crypto'
import { FlotillaError } from '../errors.ts'
import { delegationOf } from './delegations.ts'
import {
  countSignatures,
  DEVICE_CAPS,
  type Envelope,
  type KeyRing,
  type Metadata,
  type MetadataCaps,
  type MetaFile,
  parseEnvelope,
  parseSigned,
  requireSignatures,
  type RoleKeys,
  type RoleKind,
  type Root,
  type Snapshot,
  type Targets,
  type Timestamp,
} from './metadata.ts'
import type { KeyPolicy } from './public-key.ts'
import type { ExpiryPolicy } from './time-floor.ts'
import { judgeExpiry, timeFloorMs } from './time-floor.ts'

/** How a client judges: which keys, which sizes, which clock. The device's own rules are `DEVICE_RULES`. */
export type TrustRules = { readonly keys: KeyPolicy; readonly caps: MetadataCaps; readonly expiry: ExpiryPolicy }

/** A verified file with the bytes it came in, so that it can be stored and passed on unchanged. */
export type Verified<T extends Metadata> = { readonly bytes: Uint8Array; readonly data: T }

/**
 * Everything that a client holds as true. Immutable: each accept function returns a new set or throws,
 * so a half-done refresh is simply dropped and nothing of it was ever trusted.
 */
export type TrustedSet = {
  readonly root: Verified<Root>
  readonly timestamp: Verified<Timestamp> | undefined
  readonly snapshot: Verified<Snapshot> | undefined
  /** `targets` and the delegated roles, by name. */
  readonly roles: ReadonlyMap<string, Verified<Targets>>
  /** Lower bound of the present time that came with the image, milliseconds since 1970. */
  readonly builtMs: number
}

/** Rules of a device without a clock: expiry is judged against the time floor only (facts/trust.md 4.4). */
export const DEVICE_RULES: TrustRules = { keys: 'ed25519-only', caps: DEVICE_CAPS, expiry: { mode: 'floor' } }

/** Most root versions that one refresh walks (facts/trust.md 4.6). */
export const MAX_ROOT_STEPS = 64

/** Starts a set from the root metadata that came with the image (or by `init`). It must be signed by itself. */
export function trustRoot(bytes: Uint8Array, builtMs: number, rules: TrustRules): TrustedSet {
  const envelope = parseEnvelope(bytes, 'root', rules.caps.root)
  // The first root is trusted because of how it came, yet must be consistent: parse, then check it by its own keys.
  const data = parseSigned('root', envelope.signed, 'root', rules.keys, rules.caps)
  requireSignatures(envelope, data.keys, roleKeys(data, 'root'), 'root')
  return { root: { bytes, data }, timestamp: undefined, snapshot: undefined, roles: new Map(), builtMs }
}

/**
 * Takes the next root: version exactly one higher, signed by the threshold of the old and of the new root.
 * Files that the new root's keys no longer vouch for are dropped, which also takes back the versions and the time
 * that a stolen key set (fast-forward recovery).
 * @throws FlotillaError SIGNATURE, ROLLBACK, FORMAT, LENGTH
 * @see TUF specification, "5.3. Update the root role"
 */
export function acceptRoot(set: TrustedSet, bytes: Uint8Array, rules: TrustRules): TrustedSet {
  const envelope = parseEnvelope(bytes, 'root', rules.caps.root)
  requireSignatures(envelope, set.root.data.keys, roleKeys(set.root.data, 'root'), 'root, by the root before it')
  const data = parseSigned('root', envelope.signed, 'root', rules.keys, rules.caps)
  requireSignatures(envelope, data.keys, roleKeys(data, 'root'), 'root, by itself')
  const wanted = set.root.data.version + 1
  if (data.version !== wanted) {
    throw new FlotillaError('ROLLBACK', `root: version ${data.version}, wanted ${wanted}`)
  }
  requirePlausibleIssue(data, data.expiresMs, 'root')
  return dropUnvouched({ ...set, root: { bytes, data } })
}

function dropUnvouched(set: TrustedSet): TrustedSet {
  const root = set.root.data
  const vouched = (file: Verified<Metadata> | undefined, keys: KeyRing, role: RoleKeys) =>
    file !== undefined &&
    countSignatures(parseEnvelope(file.bytes, file.data.kind, Infinity), keys, role) >= role.threshold
  const timestamp = vouched(set.timestamp, root.keys, roleKeys(root, 'timestamp')) ? set.timestamp : undefined
  const snapshot = vouched(set.snapshot, root.keys, roleKeys(root, 'snapshot')) ? set.snapshot : undefined
  const roles = new Map<string, Verified<Targets>>()
  const targets = set.roles.get('targets')
  if (targets !== undefined && vouched(targets, root.keys, roleKeys(root, 'targets'))) {
    for (const [name, file] of set.roles) roles.set(name, file)
  }
  return { ...set, timestamp, snapshot, roles }
}

/** Checks that the newest root may be used now. @throws FlotillaError EXPIRED when the policy says so */
export function requireFreshRoot(set: TrustedSet, rules: TrustRules): void {
  judgeExpiry('root', set.root.data.expiresMs, timeFloorMs(set), rules.expiry)
}

/**
 * Takes timestamp metadata. Returns the same set when the version is the one already held.
 * @throws FlotillaError SIGNATURE, ROLLBACK (also of the snapshot version in it), MISSING when it asks for a newer root
 * @see TUF specification, "5.4. Update the timestamp role"
 */
export function acceptTimestamp(set: TrustedSet, bytes: Uint8Array, rules: TrustRules): TrustedSet {
  const envelope = parseEnvelope(bytes, 'timestamp', rules.caps.timestamp)
  const data = verifyByRoot(set, envelope, 'timestamp', rules)
  const old = set.timestamp?.data
  if (old !== undefined) {
    if (data.version < old.version) throw superseded('timestamp', data.version, old.version)
    if (data.version === old.version) return withFreshTimestamp(set, rules)
    if (data.snapshot.version < old.snapshot.version) {
      throw superseded('snapshot named by timestamp', data.snapshot.version, old.snapshot.version)
    }
    requireTimeForward(data, old, 'timestamp')
  }
  requirePlausibleIssue(data, set.root.data.expiresMs, 'timestamp')
  if (data.minRoot > set.root.data.version) {
    throw new FlotillaError(
      'MISSING',
      `timestamp: asks for root ${data.minRoot} or newer, this client has ${set.root.data.version}; fetch the root chain first`,
    )
  }
  return withFreshTimestamp({ ...set, timestamp: { bytes, data } }, rules)
}

function withFreshTimestamp(set: TrustedSet, rules: TrustRules): TrustedSet {
  if (set.timestamp !== undefined) {
    judgeExpiry('timestamp', set.timestamp.data.expiresMs, timeFloorMs(set), rules.expiry)
  }
  return set
}

/**
 * Takes snapshot metadata: exactly the version (and bytes, when hashes are given) that the timestamp names.
 * No role may vanish from it and no version in it may go back.
 * @see TUF specification, "5.5. Update the snapshot role"
 */
export function acceptSnapshot(set: TrustedSet, bytes: Uint8Array, rules: TrustRules): TrustedSet {
  const meta = set.timestamp?.data.snapshot
  if (meta === undefined) throw new FlotillaError('MISSING', 'snapshot: no timestamp metadata is trusted yet')
  requireMatch(bytes, meta, 'snapshot')
  const envelope = parseEnvelope(bytes, 'snapshot', rules.caps.snapshot)
  const data = verifyByRoot(set, envelope, 'snapshot', rules)
  if (data.version !== meta.version) {
    throw new FlotillaError('MIX_AND_MATCH', `snapshot: version ${data.version}, timestamp names ${meta.version}`)
  }
  const old = set.snapshot?.data
  for (const [name, before] of old?.meta ?? []) {
    const after = data.meta.get(name)
    if (after === undefined) throw new FlotillaError('ROLLBACK', `snapshot: role ${name} vanished from it`)
    if (after.version < before.version) throw superseded(`snapshot: role ${name}`, after.version, before.version)
  }
  if (old !== undefined) requireTimeForward(data, old, 'snapshot')
  requirePlausibleIssue(data, set.root.data.expiresMs, 'snapshot')
  const next = { ...set, snapshot: { bytes, data } }
  judgeExpiry('snapshot', data.expiresMs, timeFloorMs(next), rules.expiry)
  return next
}

/** True when the snapshot held is the one that the timestamp names. */
export function hasCurrentSnapshot(set: TrustedSet): boolean {
  const meta = set.timestamp?.data.snapshot
  if (set.snapshot === undefined || meta === undefined || set.snapshot.data.version !== meta.version) return false
  try {
    requireMatch(set.snapshot.bytes, meta, 'snapshot')
    return true
  } catch {
    return false
  }
}

/**
 * Takes `targets` metadata (delegator `root`) or a delegated role (delegator = the role that delegates to it):
 * length, hash and version as the snapshot says, signatures by the delegator's keys.
 * @see TUF specification, "5.6. Update the targets role"
 */
export function acceptRole(
  set: TrustedSet,
  name: string,
  delegator: string,
  bytes: Uint8Array,
  rules: TrustRules,
): TrustedSet {
  const meta = set.snapshot?.data.meta.get(name)
  if (set.snapshot === undefined || !hasCurrentSnapshot(set)) {
    throw new FlotillaError('MISSING', `${name}: no current snapshot metadata is trusted yet`)
  }
  if (meta === undefined) throw new FlotillaError('MISSING', `${name}: the snapshot does not list this role`)
  requireMatch(bytes, meta, name)
  const envelope = parseEnvelope(bytes, name, rules.caps.targets)
  const { keys, role } = delegatorKeys(set, name, delegator)
  requireSignatures(envelope, keys, role, name)
  const data = parseSigned('targets', envelope.signed, name, rules.keys, rules.caps)
  if (data.version !== meta.version) {
    throw new FlotillaError('MIX_AND_MATCH', `${name}: version ${data.version}, snapshot names ${meta.version}`)
  }
  const old = set.roles.get(name)?.data
  if (old !== undefined) requireTimeForward(data, old, name)
  requirePlausibleIssue(data, set.root.data.expiresMs, name)
  const next = { ...set, roles: new Map(set.roles).set(name, { bytes, data }) }
  judgeExpiry('targets', data.expiresMs, timeFloorMs(next), rules.expiry)
  return next
}

/** True when the role held is the one that the snapshot names and its delegator's keys still vouch for it. */
export function hasCurrentRole(set: TrustedSet, name: string, delegator: string): boolean {
  const file = set.roles.get(name)
  const meta = set.snapshot?.data.meta.get(name)
  if (file === undefined || meta === undefined || file.data.version !== meta.version) return false
  try {
    requireMatch(file.bytes, meta, name)
    const { keys, role } = delegatorKeys(set, name, delegator)
    requireSignatures(parseEnvelope(file.bytes, name, Infinity), keys, role, name)
    return true
  } catch {
    return false
  }
}

function delegatorKeys(set: TrustedSet, name: string, delegator: string): { keys: KeyRing; role: RoleKeys } {
  if (delegator === 'root') return { keys: set.root.data.keys, role: roleKeys(set.root.data, 'targets') }
  const delegations = set.roles.get(delegator)?.data.delegations
  const role = delegationOf(delegations, name)
  if (delegations === undefined || role === undefined) {
    throw new FlotillaError('MISSING', `${name}: ${delegator} does not delegate to it`)
  }
  return { keys: delegations.keys, role: role.keys }
}

function verifyByRoot<K extends 'timestamp' | 'snapshot'>(
  set: TrustedSet,
  envelope: Envelope,
  kind: K,
  rules: TrustRules,
): Extract<Metadata, { kind: K }> {
  requireSignatures(envelope, set.root.data.keys, roleKeys(set.root.data, kind), kind)
  return parseSigned<K>(kind, envelope.signed, kind, rules.keys, rules.caps)
}

function roleKeys(root: Root, kind: RoleKind): RoleKeys {
  return root.roles.get(kind) ?? { keyIds: [], threshold: Infinity }
}

/** Checks bytes against a length and hashes that signed metadata names. @throws FlotillaError LENGTH, MIX_AND_MATCH */
export function requireMatch(
  bytes: Uint8Array,
  meta: Pick<MetaFile, 'length' | 'sha256' | 'sha512'>,
  what: string,
): void {
  if (meta.length !== undefined && bytes.length > meta.length) {
    throw new FlotillaError('LENGTH', `${what}: ${bytes.length} bytes, ${meta.length} are signed for`)
  }
  for (const algorithm of ['sha256', 'sha512'] as const) {
    const wanted = meta[algorithm]
    if (wanted === undefined) continue
    const found = createHash(algorithm).update(bytes).digest('hex')
    if (found !== wanted) {
      throw new FlotillaError(
        'MIX_AND_MATCH',
        `${what}: ${algorithm} is ${found.slice(0, 12)}…, signed is ${wanted.slice(0, 12)}…`,
      )
    }
  }
}

function superseded(what: string, found: number, held: number): FlotillaError {
  return new FlotillaError('ROLLBACK', `${what}: version ${found} is superseded, this client holds ${held}`)
}

function requireTimeForward(next: Metadata, old: Metadata, what: string): void {
  if (next.issuedMs !== undefined && old.issuedMs !== undefined && next.issuedMs < old.issuedMs) {
    throw new FlotillaError('ROLLBACK', `${what}: x-issued goes back in time; sign it again with a clock that is right`)
  }
}

// A stolen key must not push the time floor beyond what the root vouches for (facts/trust.md 4.4).
function requirePlausibleIssue(data: Metadata, rootExpiresMs: number, what: string): void {
  if (data.issuedMs !== undefined && (data.issuedMs > rootExpiresMs || data.issuedMs > data.expiresMs)) {
    throw new FlotillaError('FORMAT', `${what}: x-issued is later than the expiry of the root or of the file itself`)
  }
}

/** The files of a set as they lie on disk or travel. */
export type TrustedFiles = {
  readonly root: Uint8Array
  readonly timestamp: Uint8Array | undefined
  readonly snapshot: Uint8Array | undefined
  readonly roles: ReadonlyMap<string, Uint8Array>
}

/**
 * Verifies again what was accepted earlier: a cache is untrusted input. What does not verify is left out,
 * except the root. Expiry is not judged here; whoever uses a role judges it.
 * @throws FlotillaError when the root itself does not verify
 */
export function reverifySet(files: TrustedFiles, builtMs: number, rules: TrustRules): TrustedSet {
  const lenient: TrustRules = { ...rules, expiry: { mode: 'never' } }
  let set = trustRoot(files.root, builtMs, rules)
  const attempt = (bytes: Uint8Array | undefined, accept: (bytes: Uint8Array) => TrustedSet) => {
    if (bytes === undefined) return
    try {
      set = accept(bytes)
    } catch {
      // left out: the next refresh fetches it again
    }
  }
  attempt(files.timestamp, (bytes) => acceptTimestamp(set, bytes, lenient))
  // By signature only: a snapshot older than the one the timestamp names is still what rollback is checked against.
  attempt(files.snapshot, (bytes) => keepSnapshot(set, bytes, lenient))
  attempt(files.roles.get('targets'), (bytes) => acceptRole(set, 'targets', 'root', bytes, lenient))
  for (const [name, bytes] of files.roles) {
    if (name !== 'targets') attempt(bytes, (role) => acceptRole(set, name, 'targets', role, lenient))
  }
  return set
}

function keepSnapshot(set: TrustedSet, bytes: Uint8Array, rules: TrustRules): TrustedSet {
  const named = set.timestamp?.data.snapshot
  const data = verifyByRoot(set, parseEnvelope(bytes, 'snapshot', rules.caps.snapshot), 'snapshot', rules)
  if (named === undefined || data.version > named.version) {
    throw new FlotillaError('MISSING', 'snapshot: the trusted timestamp does not reach it')
  }
  requirePlausibleIssue(data, set.root.data.expiresMs, 'snapshot')
  return { ...set, snapshot: { bytes, data } }
}
