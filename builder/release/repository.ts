import { createHash } from 'node:crypto'
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { type FleetPolicy, parseFleetPolicy } from '../../protocol/membership/fleet-policy.ts'
import { parseRelease, type Release } from '../../protocol/release/description.ts'
import { findPolicy, listReleases, type ReleasePointer } from '../../protocol/release/find-release.ts'
import { parseJson, shape } from '../../protocol/shape.ts'
import { judgeBundle, type MetadataBundle } from '../../protocol/trust/metadata-bundle.ts'
import { DEVICE_RULES, trustRoot, type TrustedSet } from '../../protocol/trust/trusted-set.ts'
import { listKeys, type SigningKey, openKey, type KeyPurpose } from './key-file.ts'
import type { MetadataJson } from './compose-metadata.ts'

/**
 * The operator's directory: signed metadata, the small files they name, and the artifacts.
 *
 *     fleet.json                 name of the fleet
 *     keys/*.key                 signing keys that are kept here
 *     metadata/N.root.json …     published metadata; timestamp.json is written last and makes a set current
 *     blobs/SHA256               descriptions, chunk indexes, fleet policies
 *     artifacts/SHA256           kernels, images …
 *     staging/                   what waits for signatures
 */
export class Repository {
  readonly path: string
  readonly fleet: string

  private constructor(path: string, fleet: string) {
    this.path = path
    this.fleet = fleet
  }

  /** @throws FlotillaError NOT_FOUND when there is no repository */
  static open(path: string): Repository {
    const file = join(path, 'fleet.json')
    if (!existsSync(file))
      throw new FlotillaError(
        'NOT_FOUND',
        `open repository ${path}: there is no fleet.json; make one with \`flotilla fleet init\`, or name it with --repo`,
      )
    const json = shape.object(parseJson(readFileSync(file), file, 65_536), file)
    return new Repository(path, shape.string(json['fleet'], `${file}: fleet`, 64))
  }

  static create(path: string, fleet: string): Repository {
    if (existsSync(join(path, 'fleet.json')))
      throw new FlotillaError('ALREADY_EXISTS', `make repository ${path}: there is one already`)
    for (const directory of ['metadata', 'blobs', 'artifacts', 'staging'])
      mkdirSync(join(path, directory), { recursive: true })
    writeDurably(join(path, 'fleet.json'), Buffer.from(`${JSON.stringify({ fleet }, null, 2)}\n`))
    return new Repository(path, fleet)
  }

  keysDirectory(): string {
    return join(this.path, 'keys')
  }

  /** Opens all keys of a purpose that are kept here. */
  openKeys(purpose: KeyPurpose, passphrase: string): readonly SigningKey[] {
    return listKeys(this.keysDirectory())
      .filter((key) => key.purpose === purpose)
      .map((key) => openKey(key.path, passphrase))
  }

  /** Root metadata of every version, in order. */
  roots(): readonly Uint8Array[] {
    const roots: Uint8Array[] = []
    for (let version = 1; ; version += 1) {
      const bytes = this.#metadata(`${version}.root.json`)
      if (bytes === undefined) return roots
      roots.push(bytes)
    }
  }

  /** What is published now, as a device with the first root would get it. */
  bundle(): MetadataBundle {
    const timestamp = this.#metadata('timestamp.json')
    const snapshotVersion = timestamp === undefined ? undefined : metaVersion(timestamp, 'snapshot.json')
    const snapshot = snapshotVersion === undefined ? undefined : this.#metadata(`${snapshotVersion}.snapshot.json`)
    const roles = new Map<string, Uint8Array>()
    for (const [name, version] of snapshot === undefined ? [] : metaVersions(snapshot)) {
      const bytes = this.#metadata(`${version}.${name}.json`)
      if (bytes !== undefined) roles.set(name, bytes)
    }
    return { roots: this.roots().slice(1), timestamp, snapshot, roles, policy: this.#policyBytes(roles) }
  }

  #policyBytes(roles: ReadonlyMap<string, Uint8Array>): Uint8Array | undefined {
    const role = roles.get(`fleet.${this.fleet}`)
    if (role === undefined) return undefined
    const { signed } = JSON.parse(Buffer.from(role).toString()) as {
      signed: { targets: Record<string, { hashes: { sha256: string } }> }
    }
    const sha256 = signed.targets[`fleet/${this.fleet}/policy`]?.hashes.sha256
    return sha256 === undefined ? undefined : this.readBlob(sha256)
  }

  /** The published set, verified with the device's own code. @throws FlotillaError with the device's refusal */
  trustedSet(): TrustedSet {
    const first = this.roots()[0]
    if (first === undefined)
      throw new FlotillaError('MISSING', `read repository ${this.path}: no root metadata is published`)
    const verdict = judgeBundle(trustRoot(first, 0, DEVICE_RULES), this.bundle(), DEVICE_RULES)
    if (verdict.refusal !== undefined) throw verdict.refusal
    return verdict.set
  }

  policy(): FleetPolicy {
    const pointer = findPolicy(this.trustedSet(), this.fleet, DEVICE_RULES)
    const bytes = pointer === undefined ? undefined : this.readBlob(pointer.sha256)
    if (bytes === undefined)
      throw new FlotillaError('MISSING', `read repository ${this.path}: no policy of fleet ${this.fleet} is published`)
    return parseFleetPolicy(bytes)
  }

  /** The current release of every board and channel. */
  releases(): readonly { readonly pointer: ReleasePointer; readonly release: Release }[] {
    return listReleases(this.trustedSet(), DEVICE_RULES).map((pointer) => {
      const bytes = this.readBlob(pointer.sha256)
      if (bytes === undefined)
        throw new FlotillaError('MISSING', `read release ${pointer.path}: its description is not in the repository`)
      return { pointer, release: parseRelease(bytes) }
    })
  }

  /** A release by id, its beginning, `board`, `board@version`, or `board/channel`. @throws FlotillaError NOT_FOUND */
  findRelease(name: string): Release {
    const candidates = this.allReleases()
    const found = candidates.filter(
      ({ id, description }) =>
        (name.length >= 6 && id.startsWith(name)) || name === `${description.board}@${description.version}`,
    )
    if (found.length === 1 && found[0] !== undefined) return found[0]
    const current = this.releases().filter(
      ({ release: { description } }) =>
        name === description.board || name === `${description.board}/${description.channel}`,
    )
    if (found.length === 0 && current.length === 1 && current[0] !== undefined) return current[0].release
    throw new FlotillaError(
      'NOT_FOUND',
      `find release ${name}: ${found.length + current.length === 0 ? 'there is none' : 'it is not the only one'}; known: ${candidates.map(({ id, description }) => `${description.board}@${description.version} (${id.slice(0, 16)})`).join(', ') || 'none'}`,
    )
  }

  /** Every release that was ever published here, newest last. */
  allReleases(): readonly Release[] {
    const releases: Release[] = []
    for (const name of readdirSync(join(this.path, 'blobs'))) {
      const bytes = this.readBlob(name)
      if (bytes?.[0] !== 0x7b || !Buffer.from(bytes).includes('"artifacts"')) continue
      try {
        releases.push(parseRelease(bytes))
      } catch {
        // a fleet policy or another small file
      }
    }
    return releases.sort((a, b) => a.description.era - b.description.era || a.description.seq - b.description.seq)
  }

  readBlob(sha256: string): Uint8Array | undefined {
    if (!/^[0-9a-f]{64}$/.test(sha256)) return undefined
    try {
      return readFileSync(join(this.path, 'blobs', sha256))
    } catch {
      return undefined // not here
    }
  }

  writeBlob(bytes: Uint8Array): string {
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    writeDurably(join(this.path, 'blobs', sha256), bytes)
    return sha256
  }

  artifactPath(sha256: string): string {
    return join(this.path, 'artifacts', sha256)
  }

  /** The published JSON of a role, or undefined. */
  currentRole(name: string): MetadataJson | undefined {
    const bundle = this.bundle()
    const bytes =
      name === 'timestamp'
        ? bundle.timestamp
        : name === 'snapshot'
          ? bundle.snapshot
          : name === 'root'
            ? this.roots().at(-1)
            : bundle.roles.get(name)
    return bytes === undefined ? undefined : (JSON.parse(Buffer.from(bytes).toString()) as MetadataJson)
  }

  /** Writes metadata files; `timestamp.json` must be written last. */
  writeMetadata(file: string, bytes: Uint8Array): void {
    writeDurably(join(this.path, 'metadata', file), bytes)
  }

  #metadata(file: string): Uint8Array | undefined {
    try {
      return readFileSync(join(this.path, 'metadata', file))
    } catch {
      return undefined // not published
    }
  }
}

function metaVersions(bytes: Uint8Array): [string, number][] {
  const { signed } = JSON.parse(Buffer.from(bytes).toString()) as {
    signed: { meta: Record<string, { version: number }> }
  }
  return Object.entries(signed.meta).map(([name, { version }]) => [name.slice(0, -5), version])
}

function metaVersion(bytes: Uint8Array, name: string): number | undefined {
  return metaVersions(bytes).find(([role]) => `${role}.json` === name)?.[1]
}

/** Writes a file under a temporary name, flushes, renames. */
export function writeDurably(path: string, bytes: Uint8Array): void {
  try {
    const temporary = `${path}.new`
    writeFileSync(temporary, bytes)
    const file = openSync(temporary, 'r')
    fsyncSync(file)
    closeSync(file)
    renameSync(temporary, path)
  } catch (cause) {
    throw new FlotillaError('DISK_FAILED', `write ${path}: ${messageOf(cause)}`, { cause })
  }
}
