import { createHash } from 'node:crypto'
import { type Disk, readSmallFile, writeNewFile } from './disk.ts'

const DIRECTORY = 'blobs'
const MAX_BLOB_BYTES = 16 * 2 ** 20

/** Small files by hash: release descriptions, chunk indexes, fleet policies. Matched with their name on every read. */
export class BlobStore {
  readonly #disk: Disk

  constructor(disk: Disk) {
    this.#disk = disk
  }

  async read(sha256: string): Promise<Uint8Array | undefined> {
    if (!/^[0-9a-f]{64}$/.test(sha256)) return undefined
    const bytes = await readSmallFile(this.#disk, `${DIRECTORY}/${sha256}`, MAX_BLOB_BYTES)
    if (bytes === undefined) return undefined
    return createHash('sha256').update(bytes).digest('hex') === sha256 ? bytes : undefined
  }

  /** Keeps a blob under its hash, durably. */
  async write(bytes: Uint8Array): Promise<string> {
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    if ((await this.read(sha256)) !== undefined) return sha256
    await this.#disk.makeDirectory(DIRECTORY)
    await writeNewFile(this.#disk, `${DIRECTORY}/${sha256}`, bytes)
    return sha256
  }
}
