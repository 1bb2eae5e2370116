import { FlotillaError } from '../errors.ts'
import { type JsonObject, parseJson, shape } from '../shape.ts'
import { canonicalJson } from './canonical-json.ts'
import { type KeyPolicy, type PublicKey, parsePublicKey } from './public-key.ts'

/** Most signatures and keys that are looked at in one file: bounds the work a hostile file can cause (facts/trust.md 4.7). */
const MAX_SIGNATURES = 16
const MAX_KEYS = 32

/** Largest metadata files that a device reads, in bytes (facts/trust.md 2.4). */
export type MetadataCaps = {
  readonly root: number
  readonly timestamp: number
  readonly snapshot: number
  readonly targets: number
  readonly keys: number
}
export const DEVICE_CAPS: MetadataCaps = {
  root: 16_384,
  timestamp: 4_096,
  snapshot: 131_072,
  targets: 131_072,
  keys: MAX_KEYS,
}

export type RoleKind = 'root' | 'timestamp' | 'snapshot' | 'targets'
export type RoleKeys = { readonly keyIds: readonly string[]; readonly threshold: number }
export type KeyRing = ReadonlyMap<string, PublicKey>

type Common = {
  readonly version: number
  /** Milliseconds since 1970, UTC. */
  readonly expiresMs: number
  /** Flotilla's `x-issued`: when the operator signed it, milliseconds since 1970. */
  readonly issuedMs: number | undefined
}
export type Root = Common & {
  readonly kind: 'root'
  readonly keys: KeyRing
  readonly roles: ReadonlyMap<RoleKind, RoleKeys>
  readonly consistentSnapshot: boolean
}
export type MetaFile = {
  readonly version: number
  readonly length: number | undefined
  readonly sha256: string | undefined
  readonly sha512: string | undefined
}
export type Timestamp = Common & {
  readonly kind: 'timestamp'
  readonly snapshot: MetaFile
  /** Flotilla's `x-min-root`: a device that holds this file refuses to act with an older root. */
  readonly minRoot: number
}
export type Snapshot = Common & { readonly kind: 'snapshot'; readonly meta: ReadonlyMap<string, MetaFile> }
export type TargetFile = {
  readonly length: number
  readonly sha256: string | undefined
  readonly sha512: string | undefined
  /** TUF's `custom`: opaque to the trust code. */
  readonly custom: JsonObject | undefined
}
export type DelegatedRole = {
  readonly name: string
  readonly keys: RoleKeys
  readonly terminating: boolean
  readonly matches: { readonly paths: readonly string[] } | { readonly hashPrefixes: readonly string[] }
}
export type SuccinctRoles = {
  readonly keys: RoleKeys
  readonly bitLength: number
  readonly namePrefix: string
}
export type Delegations = {
  readonly keys: KeyRing
  readonly roles: readonly DelegatedRole[]
  readonly succinct: SuccinctRoles | undefined
}
export type Targets = Common & {
  readonly kind: 'targets'
  readonly targets: ReadonlyMap<string, TargetFile>
  readonly delegations: Delegations | undefined
  /** Flotilla's `x-era` (top-level targets only): raised after a compromise that burnt sequence numbers. */
  readonly era: number
}
export type Metadata = Root | Timestamp | Snapshot | Targets

/** A file whose JSON was read but whose signatures were not yet checked. Nothing in `signed` may be used before. */
export type Envelope = {
  readonly bytes: Uint8Array
  readonly signedBytes: Uint8Array
  readonly signed: JsonObject
  readonly signatures: ReadonlyMap<string, Uint8Array>
}

/** Reads the outer form `{signatures, signed}` of a metadata file: length, syntax, shape of the envelope. */
export function parseEnvelope(bytes: Uint8Array, what: string, maxBytes: number): Envelope {
  const outer = shape.object(parseJson(bytes, what, maxBytes), what)
  const signed = shape.object(outer['signed'], `${what}: signed`)
  const signatures = new Map<string, Uint8Array>()
  for (const entry of shape.array(outer['signatures'], `${what}: signatures`, MAX_SIGNATURES)) {
    const signature = shape.object(entry, `${what}: signatures[]`)
    const keyId = shape.string(signature['keyid'], `${what}: keyid`, 128)
    if (signatures.has(keyId)) throw new FlotillaError('FORMAT', `${what}: two signatures under one key id`)
    signatures.set(keyId, Buffer.from(shape.string(signature['sig'], `${what}: sig`, 4096), 'hex'))
  }
  return { bytes, signedBytes: canonicalJson(signed), signed, signatures }
}

/** How many different keys of the role signed the file. One public key under two ids counts once. */
export function countSignatures(envelope: Envelope, keys: KeyRing, role: RoleKeys): number {
  const seen = new Set<string>()
  for (const keyId of role.keyIds) {
    const key = keys.get(keyId)
    const signature = envelope.signatures.get(keyId)
    if (key === undefined || signature === undefined || seen.has(key.fingerprint)) continue
    if (key.verify(envelope.signedBytes, signature)) seen.add(key.fingerprint)
  }
  return seen.size
}

/** Throws SIGNATURE unless the role's threshold is reached. */
export function requireSignatures(envelope: Envelope, keys: KeyRing, role: RoleKeys, what: string): void {
  const count = countSignatures(envelope, keys, role)
  if (count < role.threshold) {
    throw new FlotillaError('SIGNATURE', `${what}: ${count} of the ${role.threshold} signatures needed are valid`, {
      details: { valid: count, threshold: role.threshold },
    })
  }
}

/** Parses `signed` after its signatures were checked. @throws FlotillaError FORMAT */
export function parseSigned<K extends RoleKind>(
  kind: K,
  signed: JsonObject,
  what: string,
  policy: KeyPolicy,
  caps: MetadataCaps,
): Extract<Metadata, { kind: K }>
export function parseSigned(
  kind: RoleKind,
  signed: JsonObject,
  what: string,
  policy: KeyPolicy,
  caps: MetadataCaps,
): Metadata {
  if (signed['_type'] !== kind) throw new FlotillaError('FORMAT', `${what}: _type is not ${kind}`)
  shape.matching(signed['spec_version'], `${what}: spec_version`, /^1(\.\d+){1,2}$/, 'version 1 of the specification')
  const common: Common = {
    version: shape.integer(signed['version'], `${what}: version`, 1),
    expiresMs: parseTime(signed['expires'], `${what}: expires`),
    issuedMs: signed['x-issued'] === undefined ? undefined : parseTime(signed['x-issued'], `${what}: x-issued`),
  }
  switch (kind) {
    case 'root':
      return { kind, ...common, ...parseRoot(signed, what, policy, caps) }
    case 'timestamp':
      return { kind, ...common, ...parseTimestamp(signed, what) }
    case 'snapshot':
      return { kind, ...common, meta: parseMeta(signed, what) }
    case 'targets':
      return { kind, ...common, ...parseTargets(signed, what, policy, caps) }
  }
}

function parseTime(value: unknown, path: string): number {
  const text = shape.matching(value, path, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/, 'a time like 2026-11-24T12:00:00Z')
  const ms = Date.parse(text)
  if (Number.isNaN(ms)) throw new FlotillaError('FORMAT', `${path}: no such date`)
  return ms
}

function parseKeys(value: unknown, path: string, policy: KeyPolicy, maxKeys: number): KeyRing {
  const entries = Object.entries(shape.object(value, path))
  if (entries.length > maxKeys) throw new FlotillaError('LIMIT', `${path}: more than ${maxKeys} keys`)
  const ring = new Map<string, PublicKey>()
  for (const [keyId, json] of entries) {
    const key = parsePublicKey(keyId, json, policy, `${path}.${keyId.slice(0, 8)}`)
    if (key !== undefined) ring.set(keyId, key)
  }
  return ring
}

function parseRoleKeys(role: JsonObject, path: string): RoleKeys {
  const keyIds = shape.array(role['keyids'], `${path}.keyids`, 1024).map((id) => shape.string(id, path, 128))
  if (new Set(keyIds).size !== keyIds.length) throw new FlotillaError('FORMAT', `${path}.keyids: one id twice`)
  return { keyIds, threshold: shape.integer(role['threshold'], `${path}.threshold`, 1, 1024) }
}

function parseRoot(signed: JsonObject, what: string, policy: KeyPolicy, caps: MetadataCaps) {
  const json = shape.object(signed['roles'], `${what}: roles`)
  const roles = new Map<RoleKind, RoleKeys>()
  for (const kind of ['root', 'timestamp', 'snapshot', 'targets'] as const) {
    roles.set(kind, parseRoleKeys(shape.object(json[kind], `${what}: roles.${kind}`), `${what}: roles.${kind}`))
  }
  const consistent = signed['consistent_snapshot']
  return {
    keys: parseKeys(signed['keys'], `${what}: keys`, policy, caps.keys),
    roles,
    consistentSnapshot: consistent === undefined ? false : shape.boolean(consistent, `${what}: consistent_snapshot`),
  }
}

function parseHashes(value: JsonObject, path: string) {
  const hashes = shape.object(value['hashes'], `${path}.hashes`)
  const get = (name: string, digits: number) =>
    hashes[name] === undefined
      ? undefined
      : shape.matching(hashes[name], `${path}.hashes.${name}`, new RegExp(`^[0-9a-f]{${digits}}$`), `${digits} digits`)
  const found = { sha256: get('sha256', 64), sha512: get('sha512', 128) }
  if (found.sha256 === undefined && found.sha512 === undefined) {
    throw new FlotillaError('FORMAT', `${path}.hashes: neither sha256 nor sha512`)
  }
  return found
}

function parseMetaFile(value: unknown, path: string): MetaFile {
  const meta = shape.object(value, path)
  return {
    version: shape.integer(meta['version'], `${path}.version`, 1),
    length: meta['length'] === undefined ? undefined : shape.integer(meta['length'], `${path}.length`, 1),
    ...(meta['hashes'] === undefined ? { sha256: undefined, sha512: undefined } : parseHashes(meta, path)),
  }
}

function parseMeta(signed: JsonObject, what: string): ReadonlyMap<string, MetaFile> {
  const meta = new Map<string, MetaFile>()
  for (const [name, value] of Object.entries(shape.object(signed['meta'], `${what}: meta`))) {
    if (!name.endsWith('.json')) throw new FlotillaError('FORMAT', `${what}: meta.${name}: does not end in .json`)
    meta.set(name.slice(0, -5), parseMetaFile(value, `${what}: meta.${name}`))
  }
  return meta
}

function parseTimestamp(signed: JsonObject, what: string) {
  const snapshot = parseMeta(signed, what).get('snapshot')
  if (snapshot === undefined) throw new FlotillaError('FORMAT', `${what}: meta lacks snapshot.json`)
  const minRoot = signed['x-min-root']
  return { snapshot, minRoot: minRoot === undefined ? 1 : shape.integer(minRoot, `${what}: x-min-root`, 1) }
}

function parseTargets(signed: JsonObject, what: string, policy: KeyPolicy, caps: MetadataCaps) {
  const targets = new Map<string, TargetFile>()
  for (const [path, value] of Object.entries(shape.object(signed['targets'], `${what}: targets`))) {
    const target = shape.object(value, `${what}: targets.${path}`)
    targets.set(path, {
      length: shape.integer(target['length'], `${what}: targets.${path}.length`, 0),
      ...parseHashes(target, `${what}: targets.${path}`),
      custom:
        target['custom'] === undefined ? undefined : shape.object(target['custom'], `${what}: targets.${path}.custom`),
    })
  }
  const era = signed['x-era']
  return {
    targets,
    delegations: parseDelegations(signed['delegations'], `${what}: delegations`, policy, caps),
    era: era === undefined ? 0 : shape.integer(era, `${what}: x-era`, 0),
  }
}

function parseDelegations(
  value: unknown,
  path: string,
  policy: KeyPolicy,
  caps: MetadataCaps,
): Delegations | undefined {
  if (value === undefined) return undefined
  const json = shape.object(value, path)
  const roles: DelegatedRole[] = []
  if (json['roles'] !== undefined) {
    for (const entry of shape.array(json['roles'], `${path}.roles`, 4096)) {
      roles.push(parseDelegatedRole(shape.object(entry, `${path}.roles[]`), `${path}.roles[${roles.length}]`))
    }
  }
  const names = roles.map((role) => role.name)
  if (new Set(names).size !== names.length) throw new FlotillaError('FORMAT', `${path}.roles: one name twice`)
  if ((json['succinct_roles'] === undefined) === (json['roles'] === undefined)) {
    throw new FlotillaError('FORMAT', `${path}: exactly one of roles and succinct_roles is needed`)
  }
  return {
    keys: parseKeys(json['keys'], `${path}.keys`, policy, Math.max(caps.keys, 4096)),
    roles,
    succinct: json['succinct_roles'] === undefined ? undefined : parseSuccinct(json['succinct_roles'], path),
  }
}

function parseDelegatedRole(role: JsonObject, path: string): DelegatedRole {
  const name = shape.string(role['name'], `${path}.name`, 256)
  if (name === '' || ['root', 'timestamp', 'snapshot', 'targets'].includes(name)) {
    throw new FlotillaError('FORMAT', `${path}.name: ${JSON.stringify(name)} cannot be delegated`)
  }
  if ((role['paths'] === undefined) === (role['path_hash_prefixes'] === undefined)) {
    throw new FlotillaError('FORMAT', `${path}: exactly one of paths and path_hash_prefixes is needed`)
  }
  const list = (member: string) =>
    shape.array(role[member], `${path}.${member}`, 4096).map((item) => shape.string(item, path, 1024))
  return {
    name,
    keys: parseRoleKeys(role, path),
    terminating: shape.boolean(role['terminating'], `${path}.terminating`),
    matches: role['paths'] === undefined ? { hashPrefixes: list('path_hash_prefixes') } : { paths: list('paths') },
  }
}

function parseSuccinct(value: unknown, path: string): SuccinctRoles {
  const json = shape.object(value, `${path}.succinct_roles`)
  return {
    keys: parseRoleKeys(json, `${path}.succinct_roles`),
    bitLength: shape.integer(json['bit_length'], `${path}.bit_length`, 1, 32),
    namePrefix: shape.string(json['name_prefix'], `${path}.name_prefix`, 256),
  }
}
