import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import {
  encodeList,
  FILE_KINDS,
  parseList,
  pathOf,
  type RepositoryFile,
  totalBytes,
} from '../../protocol/backup/repository-list.ts'
import { repositoryName } from '../../protocol/backup/repository-name.ts'
import type { BackupHead } from '../../protocol/backup/backup-head.ts'
import { KEEP_KEYS, type KeepPolicy } from '../../protocol/core/backup-spec.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { parseJson, shape } from '../../protocol/shape.ts'
import type { EventLog } from '../control/event-log.ts'
import type { Disk } from '../store/disk.ts'
import { GenerationFile } from '../store/generation-file.ts'
import { writeDurably } from '../store/write-durably.ts'
import { fileHash } from './file-hash.ts'
import { nameTag, WARM_TAG } from './make-backup.ts'
import { Restic } from './restic.ts'

/** What this device knows of its own repository; on disk before it is told. The list is empty before the first. */
export type RepositoryState = Pick<BackupHead, 'repository' | 'epoch' | 'seq' | 'list' | 'listBytes' | 'bytes'> & {
  /** Repositories that this device began. */
  readonly lines: number
  /** Wall clock of the last backup of each container, milliseconds. */
  readonly lastMs: Readonly<Record<string, number>>
  readonly prunedMs: number
}

const MAX_STATE = 262_144
/** Unused space that a prune leaves: to take it away packs are written anew, and sent anew. */
const MAX_UNUSED = '10%'
const MAX_LIST = 16 * 2 ** 20

/** The restic repository of this device: made when it is first needed, checked before it is told of. */
export class OwnRepository {
  readonly #directory: string
  readonly #device: string
  readonly #file: GenerationFile
  readonly #passwordFile: string
  readonly #log: EventLog
  #state: RepositoryState
  #password: string
  /** Read once for each list: whoever looks after the repository asks every other second. */
  #listed: { readonly list: string; readonly files: readonly RepositoryFile[] } = { list: '', files: [] }

  private constructor(
    directory: string,
    passwordFile: string,
    file: GenerationFile,
    device: string,
    log: EventLog,
    state: RepositoryState,
    password: string,
  ) {
    this.#directory = directory
    this.#passwordFile = passwordFile
    this.#file = file
    this.#device = device
    this.#log = log
    this.#state = state
    this.#password = password
  }

  /** @param directory - `/mnt/persist/skiff/backups` */
  static async open(
    directory: string,
    persist: Disk,
    persistPath: string,
    device: string,
    log: EventLog,
  ): Promise<OwnRepository> {
    const file = new GenerationFile(persist, 'backup/repository', MAX_STATE)
    const bytes = await file.read()
    const state = bytes === undefined ? firstState(device, 1) : parseState(bytes)
    const passwordFile = join(persistPath, 'backup/password')
    const password = await readPassword(passwordFile)
    return new OwnRepository(directory, passwordFile, file, device, log, state, password)
  }

  get state(): RepositoryState {
    return this.#state
  }

  get password(): string {
    return this.#password
  }

  get path(): string {
    return join(this.#directory, 'repository')
  }

  get workDirectory(): string {
    return join(this.#directory, 'work')
  }

  get exists(): boolean {
    return existsSync(join(this.path, 'config'))
  }

  get restic(): Restic {
    return new Restic(this.path, this.#passwordFile)
  }

  /** Makes what is missing. A repository without its password is put aside, never removed. */
  async require(signal: AbortSignal): Promise<Restic> {
    if (this.exists && this.#password === '') await this.#putAside('its password file is lost')
    if (!this.exists) {
      if (this.#password === '') await this.setPassword(randomBytes(32).toString('base64url'))
      await rm(this.path, { recursive: true, force: true }) // an init that was cut off
      await mkdir(this.path, { recursive: true, mode: 0o700 })
      await this.restic.init(signal)
      this.#log.add('info', 'backup-repository', { repository: this.#state.repository })
    }
    return this.restic
  }

  /** Durable before it is used. */
  async setPassword(password: string): Promise<void> {
    // Never over another that something may still need.
    if (this.#password !== '' && this.#password !== password)
      await rename(this.#passwordFile, `${this.#passwordFile}.before-${Date.now()}`)
    await writePassword(this.#passwordFile, password)
    this.#password = password
  }

  /** Opens something with another password. */
  async withPasswordFile<T>(password: string, work: (path: string) => Promise<T>): Promise<T> {
    const path = `${this.#passwordFile}.other`
    await writePassword(path, password)
    try {
      return await work(path)
    } finally {
      await rm(path, { force: true })
    }
  }

  /** Another device has this repository now, or nobody can open it: it is kept beside, and the next one is begun. */
  async #putAside(why: string): Promise<void> {
    const { repository, lines } = this.#state
    const place = join(this.#directory, 'aside', `${repository}-${Date.now()}`)
    await mkdir(join(place, '..'), { recursive: true, mode: 0o700 })
    if (existsSync(this.path)) await rename(this.path, place)
    if (this.#password !== '') await rename(this.#passwordFile, `${place}.password`)
    this.#password = ''
    this.#log.add('error', 'backup-repository-aside', { repository, why, path: place })
    await this.#save(firstState(this.#device, lines + 1))
  }

  /** Another device took it over: backups of this one go to its next repository from now on. */
  async fence(to: string): Promise<void> {
    await this.#putAside(`${to} took it over`)
  }

  /**
   * Takes over a repository that was fetched whole, with what its last head said. After a power cut it is called again, and goes on:
   * the files are moved before anything else forgets them.
   */
  async takeOver(
    source: string,
    password: string,
    head: Pick<RepositoryState, 'repository' | 'epoch' | 'seq'>,
  ): Promise<void> {
    if (existsSync(source)) {
      if (this.exists) await this.#putAside(`${head.repository} takes its place`)
      await this.setPassword(password)
      await rm(this.path, { recursive: true, force: true })
      await rename(source, this.path)
      for (const entry of await readdir(this.path, { recursive: true }))
        if (/\.(part|bad)$/.test(entry)) await rm(join(this.path, entry), { force: true })
      await mkdir(join(this.path, 'locks'), { recursive: true })
    }
    await this.#save({ ...firstState(this.#device, this.#state.lines), ...head })
  }

  /** A backup of this container was made. */
  async noteBackup(container: string, atMs: number): Promise<void> {
    await this.#save({ ...this.#state, lastMs: { ...this.#state.lastMs, [container]: atMs } })
  }

  /**
   * Forgets what the policies do not keep, and once in a while removes what nobody needs any more.
   * @returns how many backups were forgotten
   */
  async forget(policies: ReadonlyMap<string, KeepPolicy>, prunesNow: boolean, signal: AbortSignal): Promise<number> {
    let forgotten = 0
    for (const [container, keep] of policies) {
      const rules = KEEP_KEYS.filter((key) => keep[key] > 0).flatMap((key) => [`--keep-${key}`, String(keep[key])])
      const args = ['forget', '--json', '--tag', nameTag(container), '--group-by', '', ...rules]
      forgotten += countRemoved((await this.restic.run(args, { signal })).out)
    }
    if (prunesNow) {
      // What an agent that was killed began.
      const begun = await this.restic.list(signal, WARM_TAG)
      if (begun.length > 0) await this.restic.run(['forget', ...begun.map(({ id }) => id)], { signal })
      await this.restic.run(['prune', '--max-unused', MAX_UNUSED], { signal })
      await this.#save({ ...this.#state, prunedMs: Date.now() })
    }
    return forgotten
  }

  /** Checks the repository, lists it and counts up: from then on its record tells of it. @throws FlotillaError VERIFY_FAILED */
  async publish(signal: AbortSignal): Promise<void> {
    await this.restic.check(false, { signal })
    const files = await listFiles(this.path)
    const list = encodeList(files)
    const name = fileHash(list)
    if (name === this.#state.list) return
    const lists = join(this.#directory, 'lists')
    await writeDurably(join(lists, name), list)
    const before = this.#state.list
    await this.#save({
      ...this.#state,
      seq: this.#state.seq + 1,
      list: name,
      listBytes: list.length,
      bytes: totalBytes(files),
    })
    // The one before may still be asked for.
    for (const old of await readdir(lists))
      if (old !== name && old !== before) await rm(join(lists, old), { force: true })
  }

  /** The list with this hash, undefined when it is not one of the last two. */
  async readList(sha256: string): Promise<Uint8Array | undefined> {
    const path = join(this.#directory, 'lists', sha256)
    const found = await stat(path).catch(() => undefined)
    return found === undefined || found.size > MAX_LIST ? undefined : readFile(path)
  }

  pathOf(file: Pick<RepositoryFile, 'kind' | 'sha256'>): string {
    return join(this.path, pathOf(file))
  }

  /** Whether the newest list names it. */
  async isListed({ sha256 }: RepositoryFile): Promise<boolean> {
    return (await this.files()).some((file) => file.sha256 === sha256)
  }

  /** Puts a whole file in the place of one that rotted. */
  async replace(file: RepositoryFile, fresh: string): Promise<void> {
    await rename(fresh, this.pathOf(file))
  }

  /** Those that the newest list names. */
  async files(): Promise<readonly RepositoryFile[]> {
    const { list } = this.#state
    if (list === '') return []
    if (this.#listed.list === list) return this.#listed.files
    const bytes = await this.readList(list)
    if (bytes === undefined) return []
    this.#listed = { list, files: parseList(bytes) }
    return this.#listed.files
  }

  async #save(state: RepositoryState): Promise<void> {
    await this.#file.write(Buffer.from(JSON.stringify(state)))
    this.#state = state
  }
}

/** Only a file that is not there is a lost one: what cannot be read now is not put aside. @throws FlotillaError DISK_FAILED */
async function readPassword(path: string): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).trim()
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return ''
    throw new FlotillaError('DISK_FAILED', `read ${path}: ${messageOf(cause)}`, { cause })
  }
}

async function writePassword(path: string, password: string): Promise<void> {
  await writeDurably(path, `${password}\n`, 0o600)
}

/** @param out - what `restic forget --json` prints: one line with a list of groups, each with what was removed */
function countRemoved(out: string): number {
  const line = out.split('\n').find((one) => one.startsWith('['))
  const groups = line === undefined ? [] : shape.array(JSON.parse(line), 'restic forget', 1_000)
  return groups.reduce<number>((sum, group) => {
    const removed = shape.object(group, 'restic forget[]')['remove'] ?? []
    return sum + shape.array(removed, 'restic forget[].remove', 100_000).length
  }, 0)
}

function firstState(device: string, line: number): RepositoryState {
  return {
    lines: line,
    repository: repositoryName(device, line),
    epoch: 0,
    seq: 0,
    list: '',
    listBytes: 0,
    bytes: 0,
    lastMs: {},
    prunedMs: 0,
  }
}

/** All files of a restic repository but its locks; `config` is hashed, all others carry their hash as their name. */
async function listFiles(path: string): Promise<readonly RepositoryFile[]> {
  const files: RepositoryFile[] = []
  const config = await readFile(join(path, 'config'))
  files.push({ kind: 'config', sha256: fileHash(config), lengthBytes: config.length })
  for (const kind of FILE_KINDS) {
    if (kind === 'config') continue
    const places = kind === 'data' ? (await readdir(join(path, 'data'))).map((at) => `data/${at}`) : [kind]
    for (const place of places)
      for (const sha256 of await readdir(join(path, place))) {
        if (!/^[0-9a-f]{64}$/.test(sha256)) continue // a file that restic was writing when it was killed
        const { size } = await stat(join(path, pathOf({ kind, sha256 })))
        files.push({ kind, sha256, lengthBytes: size })
      }
  }
  return files
}

/** @throws FlotillaError FORMAT, LENGTH */
function parseState(bytes: Uint8Array): RepositoryState {
  const what = 'backup/repository'
  const json = shape.object(parseJson(bytes, what, MAX_STATE), what)
  const number = (key: string) => shape.integer(json[key], `${what}: ${key}`, 0)
  const list = shape.string(json['list'], `${what}: list`, 64)
  if (list !== '') shape.hex32(list, `${what}: list`)
  const last = Object.entries(shape.object(json['lastMs'], `${what}: lastMs`))
  if (last.length > 1_000) throw new FlotillaError('LENGTH', `${what}: more than 1000 containers`)
  return {
    lines: number('lines'),
    repository: shape.string(json['repository'], `${what}: repository`, 128),
    epoch: number('epoch'),
    seq: number('seq'),
    list,
    listBytes: number('listBytes'),
    bytes: number('bytes'),
    lastMs: Object.fromEntries(last.map(([name, at]) => [name, shape.integer(at, `${what}: lastMs`, 0)])),
    prunedMs: number('prunedMs'),
  }
}
