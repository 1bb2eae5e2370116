import { createHash } from 'node:crypto'
import { type Disk, parentOf, readSmallFile } from './disk.ts'

/**
 * A small file of which two generations are kept: `path` and `path.prev`, each `sha256 hex \n content`.
 * After a power cut at any moment `read` gives the newest or the one before, never a mixture; a file that does not
 * match its hash is as good as missing.
 */
export class GenerationFile {
  readonly #disk: Disk
  readonly #path: string
  readonly #maxBytes: number

  constructor(disk: Disk, path: string, maxBytes: number) {
    this.#disk = disk
    this.#path = path
    this.#maxBytes = maxBytes + 65
  }

  /** The newest whole generation, or undefined. */
  async read(): Promise<Uint8Array | undefined> {
    return (await this.#readOne(this.#path)) ?? (await this.#readOne(`${this.#path}.prev`))
  }

  /** Replaces the content; returns once it is on the medium. */
  async write(content: Uint8Array): Promise<void> {
    const hash = createHash('sha256').update(content).digest('hex')
    const bytes = Buffer.concat([Buffer.from(`${hash}\n`), content])
    const fresh = `${this.#path}.new`
    await this.#disk.makeDirectory(parentOf(this.#path))
    await this.#disk.remove(fresh)
    await this.#disk.allocate(fresh, bytes.length)
    await this.#disk.write(fresh, 0, bytes)
    await this.#disk.flush(fresh)
    // Only a whole newest generation may become the one before.
    if ((await this.#readOne(this.#path)) !== undefined) await this.#disk.rename(this.#path, `${this.#path}.prev`)
    await this.#disk.rename(fresh, this.#path)
    await this.#disk.flushDirectory(parentOf(this.#path))
  }

  async #readOne(path: string): Promise<Uint8Array | undefined> {
    const bytes = await readSmallFile(this.#disk, path, this.#maxBytes)
    if (bytes === undefined || bytes.length < 65) return undefined
    const content = bytes.subarray(65)
    const wanted = Buffer.from(bytes.subarray(0, 64)).toString('latin1')
    return createHash('sha256').update(content).digest('hex') === wanted ? content : undefined
  }
}
