import { FlotillaError } from '../../protocol/errors.ts'
import { encodeBundle, parseBundle } from '../../protocol/network/metadata-exchange.ts'
import type { MetadataBundle } from '../../protocol/trust/metadata-bundle.ts'
import { DEVICE_RULES, reverifySet, type TrustedSet } from '../../protocol/trust/trusted-set.ts'
import { type Disk, readSmallFile, writeNewFile } from './disk.ts'
import { GenerationFile } from './generation-file.ts'

const MAX_STORE_BYTES = 4 * 2 ** 20
const MAX_ROOT_BYTES = 16_384

/** Trust as it lies on the device, with the chain of roots that others may need. */
export type StoredTrust = {
  readonly set: TrustedSet
  readonly roots: readonly Uint8Array[]
  readonly policy: Uint8Array | undefined
}

/**
 * Keeps the trusted set in one file of two generations and the roots one by one. Roots are written before the set
 * that needs them. Everything is verified again when it is read: the store is untrusted input.
 * Layout: `trust/set`, `trust/set.prev`, `trust/root/<version>.json`, `trust/built` (image time, milliseconds).
 */
export class TrustStore {
  readonly #disk: Disk
  readonly #file: GenerationFile

  constructor(disk: Disk) {
    this.#disk = disk
    this.#file = new GenerationFile(disk, 'trust/set', MAX_STORE_BYTES)
  }

  /** @throws FlotillaError MISSING when the device was never provisioned */
  async load(): Promise<StoredTrust> {
    const roots = await this.#readRoots()
    const first = roots[0]
    if (first === undefined) {
      throw new FlotillaError(
        'MISSING',
        'read trust: there is no root metadata in trust/root; provision the device with `flotilla device create`',
      )
    }
    const built = Number(
      Buffer.from((await readSmallFile(this.#disk, 'trust/built', 32)) ?? new Uint8Array()).toString(),
    )
    const stored = await this.#readSet()
    const newest = roots.at(-1) ?? first
    const set = reverifySet(
      { root: newest, timestamp: stored?.timestamp, snapshot: stored?.snapshot, roles: stored?.roles ?? new Map() },
      Number.isSafeInteger(built) ? built : 0,
      DEVICE_RULES,
    )
    return { set, roots, policy: stored?.policy }
  }

  /** Commits roots at once, then the rest in one write. */
  async save(set: TrustedSet, newRoots: readonly Uint8Array[], policy: Uint8Array | undefined): Promise<void> {
    await this.#disk.makeDirectory('trust/root')
    let version = set.root.data.version - newRoots.length
    for (const root of newRoots) {
      version += 1
      await writeNewFile(this.#disk, `trust/root/${version}.json`, root)
    }
    const bundle: MetadataBundle = {
      roots: [],
      timestamp: set.timestamp?.bytes,
      snapshot: set.snapshot?.bytes,
      roles: new Map([...set.roles].map(([name, file]) => [name, file.bytes])),
      policy,
    }
    await this.#file.write(encodeBundle(bundle))
  }

  /** First provisioning: the factory's roots, set and image time. */
  async provision(set: TrustedSet, roots: readonly Uint8Array[], policy: Uint8Array, builtMs: number): Promise<void> {
    await this.#disk.makeDirectory('trust/root')
    await writeNewFile(this.#disk, 'trust/built', Buffer.from(String(builtMs)))
    await this.save(set, roots, policy)
  }

  async #readSet(): Promise<MetadataBundle | undefined> {
    const bytes = await this.#file.read()
    if (bytes === undefined) return undefined
    try {
      return parseBundle(bytes)
    } catch {
      return undefined // as good as missing: the next peer brings it again
    }
  }

  // The archive counts up to its first gap; a root that was being written when the power failed is fetched again.
  async #readRoots(): Promise<Uint8Array[]> {
    const versions = (await this.#disk.list('trust/root'))
      .map((name) => /^(\d+)\.json$/.exec(name)?.[1])
      .filter((version) => version !== undefined)
      .map(Number)
      .sort((a, b) => a - b)
    const roots: Uint8Array[] = []
    for (const [at, version] of versions.entries()) {
      if (version !== (versions[0] ?? 0) + at) break
      const bytes = await readSmallFile(this.#disk, `trust/root/${version}.json`, MAX_ROOT_BYTES)
      if (bytes === undefined) break
      roots.push(bytes)
    }
    return roots
  }
}
