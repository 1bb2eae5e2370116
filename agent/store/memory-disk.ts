import { FlotillaError } from '../../protocol/errors.ts'
import { type Disk, parentOf } from './disk.ts'

/** Thrown by every operation from the moment the power is cut. */
export class PowerCut extends Error {
  constructor() {
    super('power cut')
    this.name = 'PowerCut'
  }
}

type Inode = {
  durable: Uint8Array
  cached: Uint8Array
  readonly pending: { readonly offset: number; readonly bytes: Uint8Array }[]
}

/** How a cut treats what was not flushed. `keep(n)`: the n-th unflushed write reaches the medium; `tear`: bytes of the write that is being made. */
export type CutMode = { readonly keep: (n: number) => boolean; readonly tearBytes: number }

const SECTOR = 512

/**
 * A disk in memory whose power can be cut before or inside any write. Model: file data and names are cached until
 * flushed; on a cut any subset of unflushed data writes may have reached the medium, and a write may be torn in the
 * middle of a sector. Renames and removals are durable in order, up to a point that the cut chooses.
 */
export class MemoryDisk implements Disk {
  #names = new Map<string, Inode>()
  #durableNames = new Map<string, Inode>()
  #directories = new Set<string>(['.'])
  #nameLog: (() => void)[] = []
  #cutAt = Infinity
  #mode: CutMode = { keep: () => false, tearBytes: 0 }
  #dead = false
  #fault: { at: number; readonly last: number; readonly error: FlotillaError } | undefined
  #capacity: number
  /** Number of changing operations so far: every one is a cut point. */
  operations = 0

  constructor(capacityBytes = Infinity) {
    this.#capacity = capacityBytes
  }

  /** The power fails at the n-th changing operation from now on (0 = the next one). */
  cutPowerAt(n: number, mode: CutMode): void {
    this.#cutAt = this.operations + n
    this.#mode = mode
  }

  /** Changing operations from the n-th from now on fail, `count` of them: a full disk, or one that went read-only. */
  failAt(n: number, count: number, error: FlotillaError): void {
    this.#fault = { at: this.operations + n, last: this.operations + n + count - 1, error }
  }

  /** Ends the fault. @returns whether it ever happened */
  mend(): boolean {
    const happened = this.#fault !== undefined && this.operations > this.#fault.at
    this.#fault = undefined
    return happened
  }

  get isDead(): boolean {
    return this.#dead
  }

  /** What is on the medium after the cut: the disk as the next boot finds it. */
  powerOn(): void {
    let n = 0
    const settle = (inode: Inode) => {
      for (const write of inode.pending) if (this.#mode.keep(n++)) overlay(inode, write.offset, write.bytes)
      inode.pending.length = 0
      inode.cached = inode.durable.slice()
    }
    for (const change of this.#nameLog)
      if (this.#mode.keep(n++)) change()
      else break // names reach the medium in order
    for (const inode of new Set(this.#durableNames.values())) settle(inode)
    this.#names = new Map(this.#durableNames)
    this.#nameLog = []
    this.#dead = false
    this.#cutAt = Infinity
  }

  #change(tear?: () => void): void {
    if (this.#dead) throw new PowerCut()
    if (this.operations >= this.#cutAt) {
      this.#dead = true
      tear?.()
      throw new PowerCut()
    }
    this.operations += 1
    const fault = this.#fault
    if (fault !== undefined && this.operations > fault.at && this.operations - 1 <= fault.last) throw fault.error
  }

  #alive(): void {
    if (this.#dead) throw new PowerCut()
  }

  makeDirectory(path: string): Promise<void> {
    return settle(() => {
      this.#alive()
      for (let at = path; at !== '.'; at = parentOf(at)) this.#directories.add(at)
    })
  }

  allocate(path: string, lengthBytes: number): Promise<void> {
    return settle(() => {
      this.#change()
      const inode = this.#names.get(path) ?? { durable: new Uint8Array(), cached: new Uint8Array(), pending: [] }
      const before = inode.cached.length
      if (this.#used() - before + lengthBytes > this.#capacity)
        throw new FlotillaError('NOT_ENOUGH_SPACE', `allocate ${path}: full`)
      inode.cached = resize(inode.cached, lengthBytes)
      inode.durable = resize(inode.durable, lengthBytes)
      if (!this.#names.has(path)) this.#name(path, inode)
    })
  }

  write(path: string, offset: number, bytes: Uint8Array): Promise<void> {
    return settle(() => {
      const inode = this.#inode(path)
      if (offset + bytes.length > inode.cached.length)
        throw new FlotillaError('DISK_FAILED', `write ${path}: beyond its end`)
      this.#change(() => {
        const torn = Math.min(bytes.length, this.#mode.tearBytes)
        if (torn > 0) overlay(inode, offset, bytes.subarray(0, torn))
      })
      inode.cached.set(bytes, offset)
      // A write longer than a sector may reach the medium in part even when nothing is torn.
      for (let at = 0; at < bytes.length; at += Math.max(SECTOR, Math.ceil(bytes.length / 4))) {
        const part = bytes.slice(at, at + Math.max(SECTOR, Math.ceil(bytes.length / 4)))
        inode.pending.push({ offset: offset + at, bytes: part })
      }
    })
  }

  read(path: string, offset: number, lengthBytes: number): Promise<Uint8Array | undefined> {
    return settle(() => {
      this.#alive()
      return this.#names.get(path)?.cached.slice(offset, offset + lengthBytes)
    })
  }

  length(path: string): Promise<number | undefined> {
    return settle(() => {
      this.#alive()
      return this.#names.get(path)?.cached.length
    })
  }

  flush(path: string): Promise<void> {
    return settle(() => {
      this.#change()
      const inode = this.#inode(path)
      for (const write of inode.pending) overlay(inode, write.offset, write.bytes)
      inode.pending.length = 0
    })
  }

  flushDirectory(path: string): Promise<void> {
    return settle(() => {
      this.#change()
      void path // names of all directories share one journal here, as on ext4
      for (const change of this.#nameLog) change()
      this.#nameLog = []
    })
  }

  dropCache(): Promise<void> {
    return settle(() => this.#alive())
  }

  rename(from: string, to: string): Promise<void> {
    return settle(() => {
      this.#change()
      const inode = this.#inode(from)
      this.#names.delete(from)
      this.#names.set(to, inode)
      this.#nameLog.push(() => {
        this.#durableNames.delete(from)
        this.#durableNames.set(to, inode)
      })
    })
  }

  remove(path: string): Promise<void> {
    return settle(() => {
      this.#alive()
      for (const directory of [...this.#directories])
        if (directory === path || directory.startsWith(`${path}/`)) this.#directories.delete(directory)
      for (const name of [...this.#names.keys()]) {
        if (name !== path && !name.startsWith(`${path}/`)) continue
        this.#change()
        this.#names.delete(name)
        this.#nameLog.push(() => this.#durableNames.delete(name))
      }
    })
  }

  list(path: string): Promise<readonly string[]> {
    return settle(() => {
      this.#alive()
      const prefix = path === '.' ? '' : `${path}/`
      const names = new Set<string>()
      for (const name of [...this.#names.keys(), ...this.#directories]) {
        if (name !== '.' && name.startsWith(prefix) && name.length > prefix.length)
          names.add(name.slice(prefix.length).split('/')[0] ?? '')
      }
      return [...names].sort()
    })
  }

  freeBytes(): Promise<number> {
    return settle(() => this.#capacity - this.#used())
  }

  /** Flips one bit on the medium and in the cache: rot. */
  flipBit(path: string, offset: number): void {
    const inode = this.#inode(path)
    for (const bytes of [inode.durable, inode.cached]) bytes[offset] = (bytes[offset] ?? 0) ^ 1
  }

  #used(): number {
    let sum = 0
    for (const inode of this.#names.values()) sum += inode.cached.length
    return sum
  }

  #name(path: string, inode: Inode): void {
    this.#names.set(path, inode)
    this.#nameLog.push(() => this.#durableNames.set(path, inode))
  }

  #inode(path: string): Inode {
    const inode = this.#names.get(path)
    if (inode === undefined) throw new FlotillaError('DISK_FAILED', `${path}: no such file`)
    return inode
  }
}

function overlay(inode: Inode, offset: number, bytes: Uint8Array): void {
  if (offset < inode.durable.length) inode.durable.set(bytes.subarray(0, inode.durable.length - offset), offset)
}

function resize(bytes: Uint8Array, length: number): Uint8Array {
  const resized = new Uint8Array(length)
  resized.set(bytes.subarray(0, length))
  return resized
}

async function settle<T>(action: () => T): Promise<T> {
  return action()
}
