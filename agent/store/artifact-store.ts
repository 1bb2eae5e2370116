import { createHash } from 'node:crypto'
import { chunkHash, type ChunkIndex, isChunk, MAX_CHUNK_BYTES } from '../../protocol/chunks/chunk-index.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import { Bitmap } from '../../protocol/exchange/bitmap.ts'
import type { ChunkStore, StoredChunk } from '../../protocol/network/exchange-driver.ts'
import { type Disk, parentOf, readSmallFile } from './disk.ts'

/** One file that holds an artifact, whole or in part. */
export type HeldFile = {
  readonly index: ChunkIndex
  readonly disk: Disk
  readonly path: string
  readonly have: Bitmap
  /** A file that is still being written; a proven slot's file never is. */
  readonly writable: boolean
}
type Open = HeldFile & {
  readonly bitsPath: string
  /** Bits written with every chunk but not flushed: what a killed process, though not a power cut, leaves behind. */
  readonly hintPath: string
  readonly twins: Map<number, readonly number[]>
  /** What is on the medium for certain. */
  durable: Uint8Array
  dirtyBytes: number
  /** Chunks written since the hint was. */
  unhinted: number
  flushing: Promise<void> | undefined
}

/** A killed process loses what it knew of so many chunks at most; a write for each chunk was a tenth of the cost of a transfer. */
const HINT_CHUNKS = 16

/** Data is flushed before the bits that speak for it, at most this many bytes later (facts/distribution.md 3.4). */
const FLUSH_BYTES = 8 * 2 ** 20

/**
 * Knows which file on this device holds which chunks. There is no second copy: the files in the slots, the carried
 * files and the half-written files are the store. Every chunk is matched with its hash whenever it is read.
 *
 * After a power cut a chunk may be fetched again, but no bit claims a chunk that is not on the medium; the whole
 * file is matched once more before anything boots from it.
 */
export class ArtifactStore implements ChunkStore {
  readonly #persist: Disk
  readonly #files = new Map<string, Open[]>()
  readonly #readBlob: (sha256: string) => Promise<Uint8Array | undefined>

  /** @param persist - where the bits of half-written files are kept, under `partial/` */
  constructor(persist: Disk, readBlob: (sha256: string) => Promise<Uint8Array | undefined>) {
    this.#persist = persist
    this.#readBlob = readBlob
  }

  readBlob(sha256: string): Promise<Uint8Array | undefined> {
    return this.#readBlob(sha256)
  }

  /** Adds a finished file: it is served and its chunks are seed data. Its content is matched when it is read. */
  addWhole(index: ChunkIndex, disk: Disk, path: string): HeldFile {
    return this.#add(wholeFile(index, disk, path))
  }

  /**
   * From here on a file is as good as proven: nothing writes to it any more. It is served without a break: a chunk
   * that cannot be read for a moment is one that this device does not have any more.
   * @throws FlotillaError VERIFY_FAILED when a chunk turned out to be rotten since the file was verified
   */
  async seal(file: HeldFile): Promise<void> {
    const open = this.#openOf(file)
    if (open === undefined || !open.writable) return
    while (open.flushing !== undefined) await open.flushing
    if (!open.have.complete)
      throw new FlotillaError('VERIFY_FAILED', `${file.path}: a chunk does not read back any more as it was written`)
    const whole = wholeFile(file.index, file.disk, file.path)
    this.#files.set(
      file.index.id,
      (this.#files.get(file.index.id) ?? []).map((other) => (other === open ? whole : other)),
    )
    await this.#removeBits(open)
  }

  /**
   * Opens a file to be completed, or goes on with one that was begun before a restart.
   * @throws FlotillaError NOT_ENOUGH_SPACE, DISK_FAILED
   */
  async begin(index: ChunkIndex, disk: Disk, path: string): Promise<HeldFile> {
    const known = this.#files.get(index.id)?.find((file) => file.path === path && file.disk === disk)
    if (known !== undefined && (known.writable || known.have.complete)) return known
    if (known !== undefined) await this.drop(known) // rotten: opened anew below, to be completed
    await disk.makeDirectory(parentOf(path))
    await this.#persist.makeDirectory('partial')
    const name = createHash('sha256').update(`${index.id} ${path}`).digest('hex').slice(0, 32)
    const bitsPath = `partial/${name}.bits`
    const hintPath = `partial/${name}.hint`
    const resumes = (await disk.length(path)) === index.artifactBytes
    await disk.allocate(path, index.artifactBytes)
    const bits = resumes ? await this.#readBits(bitsPath, index) : undefined
    const hint = resumes ? await this.#readBits(hintPath, index) : undefined
    for (const [bitmap, file] of [
      [bits, bitsPath],
      [hint, hintPath],
    ] as const) {
      if (bitmap !== undefined) continue
      await this.#persist.remove(file)
      await this.#persist.allocate(file, Math.ceil(index.count / 8))
      await this.#persist.flush(file)
    }
    // A finished file whose bits were dropped: everything in it is matched anew instead of fetched anew.
    const claimed = resumes && bits === undefined && hint === undefined ? Bitmap.full(index.count) : hint
    const file: Open = {
      index,
      disk,
      path,
      have: bits ?? new Bitmap(index.count),
      writable: true,
      bitsPath,
      hintPath,
      twins: twinsOf(index),
      durable: (bits ?? new Bitmap(index.count)).bytes.slice(),
      dirtyBytes: 0,
      unhinted: 0,
      flushing: undefined,
    }
    // What is only claimed is matched before it is believed.
    for (let at = 0; at < index.count; at += 1) {
      if (claimed?.has(at) !== true || file.have.has(at) || (await readFrom(file, at)) === undefined) continue
      file.have.add(at)
      file.dirtyBytes += index.lengths[at] ?? 0
    }
    return this.#add(file)
  }

  async #readBits(path: string, index: ChunkIndex): Promise<Bitmap | undefined> {
    const bytes = await readSmallFile(this.#persist, path, Math.ceil(index.count / 8))
    if (bytes?.length !== Math.ceil(index.count / 8)) return undefined
    const stored = new Bitmap(index.count, Uint8Array.from(bytes))
    const clean = new Bitmap(index.count) // without bits beyond the end
    for (let at = 0; at < index.count; at += 1) if (stored.has(at)) clean.add(at)
    return clean
  }

  #add(file: Open): HeldFile {
    this.#files.set(file.index.id, [...(this.#files.get(file.index.id) ?? []), file])
    return file
  }

  /** Forgets a file (not its bytes), and the bits that were kept for it. */
  async drop(file: HeldFile): Promise<void> {
    const list = this.#files.get(file.index.id) ?? []
    const left = list.filter((other) => other !== file)
    if (left.length === 0) this.#files.delete(file.index.id)
    else this.#files.set(file.index.id, left)
    const open = list.find((other) => other === file)
    if (open?.writable === true) await this.#removeBits(open)
  }

  async #removeBits({ bitsPath, hintPath }: Open): Promise<void> {
    await this.#persist.remove(bitsPath)
    await this.#persist.remove(hintPath)
  }

  /** The inner side of a file that this store gave out, undefined once it was dropped. */
  #openOf(file: HeldFile): Open | undefined {
    return this.#files.get(file.index.id)?.find((other) => other === file)
  }

  /** The files on persist that lie at a path. */
  filesAt(path: string): readonly HeldFile[] {
    return [...this.#files.values()].flat().filter((file) => file.disk === this.#persist && file.path === path)
  }

  files(artifact: string): readonly HeldFile[] {
    return this.#files.get(artifact) ?? []
  }

  /** The union of what all files of the artifact hold. */
  holds(index: ChunkIndex): Bitmap {
    const union = new Bitmap(index.count)
    for (const file of this.files(index.id))
      for (let at = 0; at < index.count; at += 1) if (file.have.has(at)) union.add(at)
    return union
  }

  async readChunk(artifact: string, chunk: number): Promise<Uint8Array | 'rotten' | 'gone'> {
    let found: 'rotten' | 'gone' = 'gone'
    for (const file of this.#files.get(artifact) ?? []) {
      if (!file.have.has(chunk)) continue
      const bytes = await readFrom(file, chunk)
      if (bytes !== undefined) return bytes
      await this.#markRotten(file, chunk)
      found = 'rotten'
    }
    return found
  }

  async storeChunk(
    artifact: string,
    chunk: number,
    payload: Uint8Array,
  ): Promise<'bad' | 'unwanted' | readonly StoredChunk[]> {
    const files = this.#files.get(artifact) ?? []
    const first = files[0]
    if (first === undefined) return []
    if (!isChunk(first.index, chunk, payload)) return 'bad'
    const stored = new Set(files.some((file) => file.have.has(chunk)) ? [chunk] : [])
    for (const file of files) {
      if (!file.writable) continue
      for (const at of file.twins.get(chunk) ?? [chunk]) {
        await this.#put(file, at, payload)
        stored.add(at)
      }
    }
    if (stored.size === 0) return 'unwanted'
    return [...stored].map((at) => ({ artifact, chunk: at }))
  }

  async #put(file: Open, chunk: number, payload: Uint8Array): Promise<void> {
    if (file.have.has(chunk)) return
    await file.disk.write(file.path, file.index.offsets[chunk] ?? 0, payload)
    file.have.add(chunk)
    file.dirtyBytes += payload.length
    file.unhinted += 1
    if (file.unhinted >= HINT_CHUNKS || file.have.complete) {
      file.unhinted = 0
      await this.#persist.write(file.hintPath, 0, file.have.bytes.slice())
    }
    if (file.dirtyBytes >= FLUSH_BYTES || file.have.complete) await this.flush(file)
  }

  /** Flushes the data, then the bits. What `have` says after it survives a power cut. */
  async flush(file: HeldFile): Promise<void> {
    const open = this.#openOf(file)
    if (open === undefined || !open.writable) return
    while (open.flushing !== undefined) await open.flushing
    if (open.dirtyBytes === 0) return
    open.flushing = this.#flushNow(open).finally(() => {
      open.flushing = undefined
    })
    await open.flushing
  }

  async #flushNow(file: Open): Promise<void> {
    const bits = file.have.bytes.slice() // chunks that arrive from here on are not covered by the flush
    const covered = file.dirtyBytes
    try {
      await file.disk.flush(file.path)
    } catch (error) {
      // After a failed flush the system may have dropped what it held: nothing since the last good one is believed.
      const durable = new Bitmap(file.index.count, file.durable.slice())
      for (let at = 0; at < file.index.count; at += 1) if (!durable.has(at)) file.have.remove(at)
      file.dirtyBytes = 0
      throw error
    }
    file.durable = bits
    file.dirtyBytes -= covered
    await this.#persist.write(file.bitsPath, 0, bits)
    await this.#persist.flush(file.bitsPath)
  }

  /**
   * Completes a file from chunks that other files on this device hold: the running release is the seed of the next.
   * @returns the chunks that were found
   */
  async fillFromDevice(file: HeldFile): Promise<readonly StoredChunk[]> {
    const open = this.#openOf(file)
    if (open === undefined || !open.writable || open.have.complete) return []
    const missing = new Map<string, number[]>()
    for (let at = 0; at < open.index.count; at += 1) {
      if (open.have.has(at)) continue
      const hash = chunkHash(open.index, at)
      missing.set(hash, [...(missing.get(hash) ?? []), at])
    }
    const found: StoredChunk[] = []
    for (const source of [...this.#files.values()].flat()) {
      if (source === open) continue
      for (let at = 0; at < source.index.count && missing.size > 0; at += 1) {
        const hash = chunkHash(source.index, at)
        const wanted = missing.get(hash)
        if (wanted === undefined || !source.have.has(at)) continue
        const payload = await readFrom(source, at)
        if (payload === undefined) {
          await this.#markRotten(source, at)
          continue
        }
        for (const position of wanted) {
          await this.#put(open, position, payload)
          found.push({ artifact: open.index.id, chunk: position })
        }
        missing.delete(hash)
      }
    }
    await this.flush(open)
    return found
  }

  /**
   * Reads a whole file back from the medium and matches every chunk and the hash of all.
   * @returns the chunks that do not match (removed from what the file holds); empty when all is well
   */
  async verify(file: HeldFile, sha256: string): Promise<readonly number[]> {
    await this.flush(file)
    if (file.writable) await file.disk.flush(file.path)
    await file.disk.dropCache(file.path)
    const whole = createHash('sha256')
    const wrong: number[] = []
    for (let at = 0; at < file.index.count; at += 1) {
      const bytes = file.have.has(at) ? await readFrom(file, at) : undefined
      if (bytes === undefined) wrong.push(at)
      else whole.update(bytes)
    }
    for (const chunk of wrong) await this.#markRotten(file, chunk)
    if (wrong.length === 0 && whole.digest('hex') !== sha256) {
      throw new FlotillaError(
        'VERIFY_FAILED',
        `verify ${file.path}: all chunks match the index, the whole does not match the signed hash; the release was made wrongly`,
      )
    }
    return wrong
  }

  async #markRotten(file: HeldFile, chunk: number): Promise<void> {
    if (!file.have.remove(chunk) || !file.writable) return
    const open = this.#openOf(file)
    if (open !== undefined) {
      for (const path of [open.bitsPath, open.hintPath]) {
        await this.#persist.write(path, 0, open.have.bytes.slice())
        await this.#persist.flush(path)
      }
    }
  }
}

function wholeFile(index: ChunkIndex, disk: Disk, path: string): Open {
  return {
    index,
    disk,
    path,
    have: Bitmap.full(index.count),
    writable: false,
    bitsPath: '',
    hintPath: '',
    twins: new Map(),
    durable: new Uint8Array(),
    dirtyBytes: 0,
    unhinted: 0,
    flushing: undefined,
  }
}

async function readFrom(file: HeldFile, chunk: number): Promise<Uint8Array | undefined> {
  const length = file.index.lengths[chunk] ?? 0
  if (length > MAX_CHUNK_BYTES) return undefined
  const bytes = await file.disk.read(file.path, file.index.offsets[chunk] ?? 0, length)
  return bytes !== undefined && isChunk(file.index, chunk, bytes) ? bytes : undefined
}

/** For chunks whose content occurs more than once in the artifact: all their places. */
function twinsOf(index: ChunkIndex): Map<number, readonly number[]> {
  const places = new Map<string, number[]>()
  for (let at = 0; at < index.count; at += 1) {
    const hash = chunkHash(index, at)
    const list = places.get(hash)
    if (list === undefined) places.set(hash, [at])
    else list.push(at)
  }
  const twins = new Map<number, readonly number[]>()
  for (const list of places.values()) if (list.length > 1) for (const at of list) twins.set(at, list)
  return twins
}
