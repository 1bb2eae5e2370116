/**
 * Reads a FAT32 that is in memory, whatever state it is in: a file is what its directory entry and its chain say. Written for disks
 * after a power cut, of which thousands are looked at.
 * @see Microsoft, FAT32 File System Specification 1.03
 */
export class FatReader {
  readonly #bytes: Buffer
  readonly #clusterBytes: number
  readonly #tableAt: number
  readonly #dataAt: number
  readonly #clusters: number
  readonly #root: number

  /** @param bytes - of the partition; may change between calls, but not its first sector */
  constructor(bytes: Buffer) {
    this.#bytes = bytes
    const sectorBytes = bytes.readUInt16LE(11)
    this.#clusterBytes = sectorBytes * bytes.readUInt8(13)
    this.#tableAt = sectorBytes * bytes.readUInt16LE(14)
    const tableSectors = bytes.readUInt32LE(36)
    this.#dataAt = this.#tableAt + sectorBytes * bytes.readUInt8(16) * tableSectors
    this.#clusters = Math.floor((bytes.length - this.#dataAt) / this.#clusterBytes)
    this.#root = bytes.readUInt32LE(44)
  }

  /** Bytes; undefined when there is no such file. */
  lengthOf(path: string): number | undefined {
    return this.#find(path)?.lengthBytes
  }

  /** Where the content of a file lies, in order: places and lengths; undefined as with `read`. */
  runs(path: string): readonly Run[] | undefined {
    const found = this.#find(path)
    return found === undefined || found.lengthBytes === 0
      ? undefined
      : this.#runs(found.cluster, Math.ceil(found.lengthBytes / this.#clusterBytes))
  }

  /** @returns undefined when there is no such file, or its chain ends before its length */
  read(path: string): Buffer | undefined {
    const entry = this.#find(path)
    if (entry === undefined) return undefined
    if (entry.lengthBytes === 0) return Buffer.alloc(0)
    const content = this.#chain(entry.cluster, Math.ceil(entry.lengthBytes / this.#clusterBytes))
    return content === undefined || content.length < entry.lengthBytes
      ? undefined
      : content.subarray(0, entry.lengthBytes)
  }

  #find(path: string): Entry | undefined {
    const parts = path.split('/')
    const name = parts.pop() ?? ''
    const directory = this.#directory(parts)
    const entry = directory?.find((found) => found.name === name)
    return entry?.isDirectory === true ? undefined : entry
  }

  /** Names in a directory; empty when it is not there. */
  list(path: string): readonly string[] {
    return (this.#directory(path.split('/').filter((part) => part !== '')) ?? []).map(({ name }) => name)
  }

  #directory(parts: readonly string[]): readonly Entry[] | undefined {
    let cluster = this.#root
    for (const part of parts) {
      const found = this.#entries(cluster).find(({ name, isDirectory }) => isDirectory && name === part)
      if (found === undefined) return undefined
      cluster = found.cluster
    }
    return this.#entries(cluster)
  }

  #entries(cluster: number): readonly Entry[] {
    const bytes = this.#chain(cluster, 64) ?? Buffer.alloc(0)
    const found: Entry[] = []
    let long = ''
    for (let at = 0; at + 32 <= bytes.length && bytes[at] !== 0; at += 32) {
      const attributes = bytes.readUInt8(at + 11)
      if (bytes[at] === 0xe5 || (attributes & 0x08) !== 0) {
        long = attributes === 0x0f && bytes[at] !== 0xe5 ? longPart(bytes.subarray(at, at + 32)) + long : ''
        continue
      }
      const short = bytes.toString('latin1', at, at + 8).trimEnd()
      const extension = bytes.toString('latin1', at + 8, at + 11).trimEnd()
      const lower = bytes.readUInt8(at + 12)
      const plain = `${(lower & 8) === 0 ? short : short.toLowerCase()}${extension === '' ? '' : '.'}${(lower & 16) === 0 ? extension : extension.toLowerCase()}`
      found.push({
        name: long === '' ? plain : long,
        isDirectory: (attributes & 0x10) !== 0,
        cluster: (bytes.readUInt16LE(at + 20) << 16) | bytes.readUInt16LE(at + 26),
        lengthBytes: bytes.readUInt32LE(at + 28),
      })
      long = ''
    }
    return found
  }

  #chain(first: number, most: number): Buffer | undefined {
    const parts = this.#runs(first, most)?.map(({ at, lengthBytes }) => this.#bytes.subarray(at, at + lengthBytes))
    return parts === undefined || parts.length === 1 ? parts?.[0] : Buffer.concat(parts)
  }

  /** At most so many clusters; undefined for a chain that leads out of the table. */
  #runs(first: number, most: number): readonly Run[] | undefined {
    const runs: Run[] = []
    let cluster = first
    let count = 0
    while (count < most) {
      if (cluster < 2 || cluster >= this.#clusters + 2) return undefined
      // What lies together is taken together.
      let run = 1
      while (count + run < most && this.#next(cluster + run - 1) === cluster + run) run += 1
      const at = this.#dataAt + (cluster - 2) * this.#clusterBytes
      runs.push({ at, lengthBytes: run * this.#clusterBytes })
      count += run
      cluster = this.#next(cluster + run - 1)
      if (cluster >= 0x0ffffff8) break
    }
    return runs
  }

  #next(cluster: number): number {
    return this.#bytes.readUInt32LE(this.#tableAt + cluster * 4) & 0x0fffffff
  }
}

/** A piece of the partition. */
export type Run = { readonly at: number; readonly lengthBytes: number }

type Entry = {
  readonly name: string
  readonly isDirectory: boolean
  readonly cluster: number
  readonly lengthBytes: number
}

function longPart(entry: Buffer): string {
  const units = Buffer.concat([entry.subarray(1, 11), entry.subarray(14, 26), entry.subarray(28, 32)])
  const text = units.toString('utf16le')
  const end = text.indexOf('\0')
  return end < 0 ? text : text.slice(0, end)
}
