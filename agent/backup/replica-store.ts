import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { type BackupHead, isNewer } from '../../protocol/backup/backup-head.ts'
import {
  MAX_LIST_BYTES,
  parseList,
  pathOf,
  type RepositoryFile,
  totalBytes,
} from '../../protocol/backup/repository-list.ts'
import { REPOSITORY_PATTERN } from '../../protocol/backup/repository-name.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { parseRecord } from '../../protocol/gossip/device-record.ts'
import { parseJson, shape } from '../../protocol/shape.ts'
import { GenerationFile } from '../store/generation-file.ts'
import { NodeDisk } from '../store/node-disk.ts'
import { fileHash, hashFile } from './file-hash.ts'

/** The replica of one repository on this device, in restic's own layout: stock restic opens it with the password. */
export type Replica = {
  readonly repository: string
  /** Device that told of it last, and its name. */
  readonly owner: { readonly device: string; readonly name: string }
  readonly head: BackupHead
  readonly record: Uint8Array
  /** The files of the head; undefined until its list is here. */
  readonly files: readonly RepositoryFile[] | undefined
  /** Paths of files that are here whole. */
  readonly have: ReadonlySet<string>
  /** Files that the head does not list any more, and for how many seconds they still stay. */
  readonly dropped: ReadonlyMap<string, number>
  readonly clocks: ReplicaClocks
}

/** Seconds that this device was up; no clock of the wall is believed. */
export type ReplicaClocks = {
  /** Since every file was hashed last. */
  readonly uncheckedSeconds: number
  /** Since the present round of hashing began, and how many bytes it has done. */
  readonly roundSeconds: number
  readonly roundBytes: number
  /** For how long others were to hold it instead of this device. */
  readonly surplusSeconds: number
}

const MAX_RECORD = 16_384
const MAX_STATE = 16 * 2 ** 20
const META = '.flotilla'
const START: ReplicaClocks = { uncheckedSeconds: 0, roundSeconds: 0, roundBytes: 0, surplusSeconds: 0 }

/** Replicas of other devices' repositories, on disk. A file is there under its name only when it is whole and hashed. */
export class ReplicaStore {
  readonly #directory: string
  readonly #disk: NodeDisk
  readonly #replicas = new Map<string, Replica>()
  readonly #diskBytes = new Map<string, number>()

  private constructor(directory: string) {
    this.#directory = directory
    this.#disk = new NodeDisk(directory)
  }

  /** @param onProblem - a replica that cannot be read is left where it is, and told of */
  static async open(directory: string, onProblem: (repository: string, error: unknown) => void): Promise<ReplicaStore> {
    await mkdir(directory, { recursive: true, mode: 0o700 })
    const store = new ReplicaStore(directory)
    for (const name of await readdir(directory)) {
      if (!REPOSITORY_PATTERN.test(name)) continue
      await store.#load(name).catch((error: unknown) => onProblem(name, error))
    }
    return store
  }

  close(): Promise<void> {
    return this.#disk.close()
  }

  all(): readonly Replica[] {
    return [...this.#replicas.values()]
  }

  get(repository: string): Replica | undefined {
    return this.#replicas.get(repository)
  }

  get usedBytes(): number {
    return sumOf(this.#diskBytes)
  }

  freeBytes(): Promise<number> {
    return this.#disk.freeBytes()
  }

  pathOf(repository: string, file?: Pick<RepositoryFile, 'kind' | 'sha256'>): string {
    const root = join(this.#directory, repository)
    return file === undefined ? root : join(root, pathOf(file))
  }

  /**
   * Takes a newer head and its list. What the list does not name any more stays for a grace.
   * @returns the share of what is here that the new head drops, 0 … 1
   */
  async take(record: Uint8Array, list: Uint8Array, graceSeconds: number): Promise<number> {
    const { record: told } = parseRecord(record)
    const head = told.backup
    if (head === undefined || fileHash(list) !== head.list)
      throw new FlotillaError('VERIFY_FAILED', `replica of ${told.name}: its list is not the one that its record names`)
    const before = this.#replicas.get(head.repository)
    if (before !== undefined && before.files !== undefined && !isNewer(head, before.head)) return 0
    const files = parseList(list)
    const listed = new Set(files.map(pathOf))
    // What is on the disk counts, whatever was noted: files that are whole, and those that no head lists any more.
    const onDisk = await this.#scan(head.repository)
    const have = new Set(files.filter((file) => onDisk.get(pathOf(file)) === file.lengthBytes).map(pathOf))
    const dropped = new Map<string, number>()
    let droppedBytes = 0
    let heldBefore = 0
    let diskBytes = 0
    for (const [path, lengthBytes] of onDisk) {
      if (/\.(part|bad)$/.test(path) && !listed.has(path.replace(/\.part$/, ''))) {
        await rm(join(this.#directory, head.repository, path), { force: true })
        continue
      }
      diskBytes += lengthBytes
      if (path.endsWith('.part')) continue
      if (before?.have.has(path) === true) heldBefore += lengthBytes
      if (listed.has(path)) continue
      dropped.set(path, before?.dropped.get(path) ?? graceSeconds)
      if (before?.have.has(path) === true) droppedBytes += lengthBytes
    }
    const meta = this.#meta(head.repository)
    await this.#disk.makeDirectory(head.repository)
    await this.#list(head.repository, head.list).write(list)
    await meta.record.write(record)
    const replica: Replica = {
      repository: head.repository,
      owner: { device: told.device, name: told.name },
      head,
      record,
      files,
      have,
      dropped,
      clocks: before?.clocks ?? START,
    }
    await this.save(replica)
    for (const entry of await this.#disk.list(`${head.repository}${META}`))
      if (entry.startsWith('list-') && !entry.startsWith(`list-${head.list.slice(0, 16)}`))
        await this.#disk.remove(`${head.repository}${META}/${entry}`)
    this.#diskBytes.set(head.repository, diskBytes)
    return heldBefore === 0 ? 0 : droppedBytes / heldBefore
  }

  /** Every file below a replica, with its size. */
  async #scan(repository: string): Promise<ReadonlyMap<string, number>> {
    const found = new Map<string, number>()
    const root = join(this.#directory, repository)
    const entries = await readdir(root, { recursive: true, withFileTypes: true }).catch(
      (error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT') return []
        throw error // a directory that cannot be read: what lies there is not gone
      },
    )
    for (const entry of entries) {
      if (!entry.isFile()) continue
      const path = join(entry.parentPath, entry.name)
      found.set(path.slice(root.length + 1), (await stat(path).catch(() => undefined))?.size ?? 0)
    }
    return found
  }

  /** Bytes that a replica takes up on the disk: also what is on its way, put aside, or waits for the end of its grace. */
  diskBytes(repository: string): number {
    return this.#diskBytes.get(repository) ?? 0
  }

  /** A file came: it is whole, hashed and flushed under another name. */
  async keep(repository: string, file: RepositoryFile): Promise<void> {
    const replica = this.#need(repository)
    const path = this.pathOf(repository, file)
    await rename(`${path}.part`, path)
    await this.#disk.flushDirectory(dirname(`${repository}/${pathOf(file)}`))
    this.#replicas.set(repository, { ...replica, have: new Set([...replica.have, pathOf(file)]) })
    this.#diskBytes.set(repository, this.diskBytes(repository) + file.lengthBytes)
  }

  /** Opens the place of a file that is on its way; what came before a cut is there. */
  async beginPart(
    repository: string,
    file: RepositoryFile,
  ): Promise<{ readonly path: string; readonly haveBytes: number }> {
    const path = `${this.pathOf(repository, file)}.part`
    await mkdir(dirname(path), { recursive: true })
    const size = (await stat(path).catch(() => undefined))?.size ?? 0
    if (size <= file.lengthBytes) return { path, haveBytes: size }
    await rm(path, { force: true })
    return { path, haveBytes: 0 }
  }

  /** Hashes a file that should be here. One that rotted is put aside, to be fetched again. */
  async check(repository: string, file: RepositoryFile): Promise<'whole' | 'bad'> {
    const path = this.pathOf(repository, file)
    const found = await hashFile(path).catch(() => undefined)
    if (found?.sha256 === file.sha256 && found.lengthBytes === file.lengthBytes) return 'whole'
    await rename(path, `${path}.bad`).catch(() => {})
    const replica = this.#need(repository)
    const have = new Set(replica.have)
    have.delete(pathOf(file))
    this.#replicas.set(repository, { ...replica, have })
    return 'bad'
  }

  /** The grace of what a head dropped runs while this device is up. @returns paths that went */
  async letTimePass(repository: string, seconds: number): Promise<readonly string[]> {
    const replica = this.#need(repository)
    const left = new Map([...replica.dropped].map(([path, rest]) => [path, rest - seconds]))
    const over = [...left].filter(([, rest]) => rest <= 0).map(([path]) => path)
    for (const path of over) {
      left.delete(path)
      await rm(join(this.#directory, repository, path), { force: true })
    }
    if (over.length > 0) this.#diskBytes.set(repository, sumOf(await this.#scan(repository)))
    const { clocks } = replica
    this.#replicas.set(repository, {
      ...replica,
      dropped: left,
      clocks: {
        ...clocks,
        uncheckedSeconds: clocks.uncheckedSeconds + seconds,
        roundSeconds: clocks.roundSeconds + seconds,
      },
    })
    return over
  }

  setClocks(repository: string, change: Partial<ReplicaClocks>): void {
    const replica = this.#need(repository)
    this.#replicas.set(repository, { ...replica, clocks: { ...replica.clocks, ...change } })
  }

  async save(replica: Replica): Promise<void> {
    const { dropped, clocks } = replica
    await this.#meta(replica.repository).state.write(
      Buffer.from(JSON.stringify({ dropped: Object.fromEntries(dropped), clocks })),
    )
    this.#replicas.set(replica.repository, replica)
  }

  /** Gives the room back. */
  async remove(repository: string): Promise<void> {
    this.#replicas.delete(repository)
    this.#diskBytes.delete(repository)
    // The record first: without it a half removed replica is none.
    await rm(join(this.#directory, `${repository}${META}`), { recursive: true, force: true })
    await rm(join(this.#directory, repository), { recursive: true, force: true })
  }

  /** Its files are somebody else's now: what was told of them goes. */
  async forget(repository: string): Promise<void> {
    this.#replicas.delete(repository)
    this.#diskBytes.delete(repository)
    await rm(join(this.#directory, `${repository}${META}`), { recursive: true, force: true })
  }

  async readList(repository: string, sha256: string): Promise<Uint8Array | undefined> {
    if (this.get(repository)?.head.list !== sha256) return undefined
    return this.#list(repository, sha256).read()
  }

  /** Named by its hash: a record and its list are never of two heads. */
  #list(repository: string, sha256: string): GenerationFile {
    return new GenerationFile(this.#disk, `${repository}${META}/list-${sha256.slice(0, 16)}`, MAX_LIST_BYTES)
  }

  async #load(repository: string): Promise<void> {
    const meta = this.#meta(repository)
    const record = await meta.record.read()
    // Begun and never told of, half removed, or handed over: what it was is not known.
    if (record === undefined) return
    const { record: told } = parseRecord(record)
    if (told.backup?.repository !== repository)
      throw new FlotillaError('FORMAT', `replica ${repository}: its record tells of another repository`)
    const list = await this.#list(repository, told.backup.list).read()
    const files = list !== undefined && fileHash(list) === told.backup.list ? parseList(list) : undefined
    const onDisk = await this.#scan(repository)
    const have = new Set((files ?? []).filter((file) => onDisk.get(pathOf(file)) === file.lengthBytes).map(pathOf))
    const { dropped, clocks } = parseReplicaState(await meta.state.read())
    this.#replicas.set(repository, {
      repository,
      owner: { device: told.device, name: told.name },
      head: told.backup,
      record,
      files,
      have,
      dropped,
      clocks,
    })
    this.#diskBytes.set(repository, sumOf(onDisk))
  }

  #meta(repository: string) {
    const at = (name: string, max: number) => new GenerationFile(this.#disk, `${repository}${META}/${name}`, max)
    return { record: at('record', MAX_RECORD), state: at('state', MAX_STATE) }
  }

  #need(repository: string): Replica {
    const replica = this.#replicas.get(repository)
    if (replica === undefined) throw new FlotillaError('NOT_FOUND', `replica of ${repository}: it is not held any more`)
    return replica
  }
}

function sumOf(sizes: ReadonlyMap<string, number>): number {
  return [...sizes.values()].reduce((sum, size) => sum + size, 0)
}

export function heldBytes({ files, have }: Replica): number {
  return totalBytes((files ?? []).filter((file) => have.has(pathOf(file))))
}

/** Asked twice a second for every record of this device. */
const percents = new WeakMap<Replica, number>()

/** 100 only when every file is here. */
export function percentOf(replica: Replica): number {
  const known = percents.get(replica) ?? computePercent(replica)
  percents.set(replica, known)
  return known
}

function computePercent({ files, have, head }: Replica): number {
  if (files === undefined) return 0
  if (files.every((file) => have.has(pathOf(file)))) return 100
  const done = totalBytes(files.filter((file) => have.has(pathOf(file))))
  return Math.min(99, Math.floor((done * 100) / Math.max(1, head.bytes)))
}

function parseReplicaState(bytes: Uint8Array | undefined): Pick<Replica, 'dropped' | 'clocks'> {
  if (bytes === undefined) return { dropped: new Map(), clocks: START }
  try {
    const json = shape.object(parseJson(bytes, 'replica state', MAX_STATE), 'replica state')
    const number = (value: unknown, key: string) => {
      if (typeof value !== 'number' || !(value >= 0)) throw new FlotillaError('FORMAT', `replica state: ${key}`)
      return value
    }
    const clocks = shape.object(json['clocks'], 'replica state: clocks')
    return {
      dropped: new Map(
        Object.entries(shape.object(json['dropped'], 'replica state: dropped')).map(([path, rest]) => [
          path,
          number(rest, path),
        ]),
      ),
      clocks: {
        uncheckedSeconds: number(clocks['uncheckedSeconds'], 'uncheckedSeconds'),
        roundSeconds: number(clocks['roundSeconds'], 'roundSeconds'),
        roundBytes: number(clocks['roundBytes'], 'roundBytes'),
        surplusSeconds: number(clocks['surplusSeconds'], 'surplusSeconds'),
      },
    }
  } catch (error) {
    throw new FlotillaError('FORMAT', `replica state: ${messageOf(error)}`, { cause: error })
  }
}
