import { createHash } from 'node:crypto'
import { canonicalJson, sortedJson } from '../../protocol/trust/canonical-json.ts'
import { ed25519KeyJson, keyIdOf } from '../../protocol/trust/public-key.ts'
import type { SigningKey } from './key-file.ts'

/** Metadata JSON before or after signing: ordinary TUF. */
export type MetadataJson = {
  readonly signed: Readonly<Record<string, unknown>> & { readonly version: number; readonly expires: string }
  readonly signatures: readonly { readonly keyid: string; readonly sig: string }[]
}

export type RoleSpec = { readonly keys: readonly string[]; readonly threshold: number }
const DAY_MS = 86_400_000

/** Lifetimes of facts/trust.md 4.1, in days. */
export const LIFETIME_DAYS = {
  root: 1826,
  targets: 1095,
  stable: 730,
  other: 90,
  fleet: 730,
  snapshot: 365,
  timestamp: 30,
} as const

function common(type: string, version: number, nowMs: number, days: number) {
  return {
    _type: type,
    spec_version: '1.0.34',
    version,
    expires: isoSeconds(nowMs + days * DAY_MS),
    'x-issued': isoSeconds(nowMs),
  }
}

/** TUF's time format: whole seconds, UTC. */
export function isoSeconds(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19)}Z`
}

function keyMap(publicHexes: Iterable<string>): Record<string, unknown> {
  return Object.fromEntries([...new Set(publicHexes)].map((hex) => [keyIdOf(ed25519KeyJson(hex)), ed25519KeyJson(hex)]))
}

function roleKeys({ keys, threshold }: RoleSpec) {
  return { keyids: keys.map((hex) => keyIdOf(ed25519KeyJson(hex))), threshold }
}

/** Root metadata, unsigned. Keys are public halves in hexadecimal. */
export function composeRoot(
  version: number,
  nowMs: number,
  roles: Readonly<Record<'root' | 'targets' | 'snapshot' | 'timestamp', RoleSpec>>,
): MetadataJson {
  return {
    signed: {
      ...common('root', version, nowMs, LIFETIME_DAYS.root),
      consistent_snapshot: true,
      keys: keyMap(Object.values(roles).flatMap((role) => role.keys)),
      roles: Object.fromEntries(Object.entries(roles).map(([name, role]) => [name, roleKeys(role)])),
    },
    signatures: [],
  }
}

/** A delegation of one `board.channel` or `fleet.id` role. */
export type Delegation = RoleSpec & { readonly name: string; readonly paths: readonly string[] }

/** Top-level targets metadata: delegations only. */
export function composeTargets(
  version: number,
  nowMs: number,
  era: number,
  delegations: readonly Delegation[],
): MetadataJson {
  return {
    signed: {
      ...common('targets', version, nowMs, LIFETIME_DAYS.targets),
      'x-era': era,
      targets: {},
      delegations: {
        keys: keyMap(delegations.flatMap((role) => role.keys)),
        roles: delegations.map((role) => ({
          name: role.name,
          ...roleKeys(role),
          terminating: true,
          paths: role.paths,
        })),
      },
    },
    signatures: [],
  }
}

/** A file as a role signs it. `custom` is what Flotilla orders about it, see protocol/spec/rollout.md. */
export type SignedFile = {
  readonly lengthBytes: number
  readonly sha256: string
  readonly custom: Readonly<Record<string, unknown>> | undefined
}

/** A file with nothing ordered about it. */
export function signedFile(bytes: Uint8Array): SignedFile {
  return { lengthBytes: bytes.length, sha256: sha256(bytes), custom: undefined }
}

/** The files that published role metadata signs, by path. */
export function signedFilesOf(metadata: MetadataJson | undefined): Map<string, SignedFile> {
  const targets = (metadata?.signed['targets'] ?? {}) as Record<
    string,
    { length: number; hashes: { sha256: string }; custom?: Record<string, unknown> }
  >
  return new Map(
    Object.entries(targets).map(([path, { length, hashes, custom }]) => [
      path,
      { lengthBytes: length, sha256: hashes.sha256, custom },
    ]),
  )
}

/** A delegated role with its signed files. */
export function composeRole(
  name: string,
  version: number,
  nowMs: number,
  files: ReadonlyMap<string, SignedFile>,
): MetadataJson {
  const days = name.startsWith('fleet.')
    ? LIFETIME_DAYS.fleet
    : name.endsWith('.stable')
      ? LIFETIME_DAYS.stable
      : LIFETIME_DAYS.other
  const targets = [...files].map(([path, file]) => [
    path,
    {
      length: file.lengthBytes,
      hashes: { sha256: file.sha256 },
      ...(file.custom === undefined ? {} : { custom: file.custom }),
    },
  ])
  return {
    signed: { ...common('targets', version, nowMs, days), targets: Object.fromEntries(targets) },
    signatures: [],
  }
}

/** Snapshot metadata over the files of all roles. */
export function composeSnapshot(version: number, nowMs: number, roles: ReadonlyMap<string, Uint8Array>): MetadataJson {
  const meta = [...roles].map(([name, bytes]) => [`${name}.json`, metaOf(bytes)])
  return {
    signed: { ...common('snapshot', version, nowMs, LIFETIME_DAYS.snapshot), meta: Object.fromEntries(meta) },
    signatures: [],
  }
}

export function composeTimestamp(
  version: number,
  nowMs: number,
  snapshot: Uint8Array,
  minRoot: number,
  days: number = LIFETIME_DAYS.timestamp,
): MetadataJson {
  return {
    signed: {
      ...common('timestamp', version, nowMs, days),
      'x-min-root': minRoot,
      meta: { 'snapshot.json': metaOf(snapshot) },
    },
    signatures: [],
  }
}

function metaOf(bytes: Uint8Array) {
  const { signed } = JSON.parse(Buffer.from(bytes).toString()) as MetadataJson
  return { version: signed.version, length: bytes.length, hashes: { sha256: sha256(bytes) } }
}

/** Adds signatures; a key that signed before is not added twice. */
export function signMetadata(metadata: MetadataJson, keys: readonly SigningKey[]): MetadataJson {
  const message = canonicalJson(metadata.signed)
  const old = metadata.signatures.filter(({ keyid }) => !keys.some((key) => key.keyId === keyid))
  return {
    signed: metadata.signed,
    signatures: [
      ...old,
      ...keys.map((key) => ({ keyid: key.keyId, sig: Buffer.from(key.sign(message)).toString('hex') })),
    ],
  }
}

/** The bytes of a metadata file. */
export function metadataBytes(metadata: MetadataJson): Uint8Array {
  return sortedJson(metadata)
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}
