import { messageOf } from '../../protocol/errors.ts'
import type { Release } from '../../protocol/release/description.ts'
import { releaseBytes } from '../../protocol/release/description.ts'
import type { SignedPointer } from '../../protocol/release/find-release.ts'
import type { EventLog } from '../control/event-log.ts'
import type { ChunkSource } from '../slots/write-release.ts'
import type { ArtifactStore, HeldFile } from './artifact-store.ts'
import type { Disk } from './disk.ts'
import type { ReleaseFetcher } from './release-fetcher.ts'

export type CarrierDeps = {
  readonly persist: Disk
  readonly store: ArtifactStore
  readonly fetcher: ReleaseFetcher
  readonly chunks: ChunkSource
  readonly quotaBytes: number
  readonly log: EventLog
  readonly fetchedBytes: () => number
}

type Carried = {
  readonly release: Release
  files: readonly HeldFile[]
  readonly stop: AbortController
  whole: boolean
  /** Why it is not being fetched at the moment, and when it is tried again. */
  failed: { readonly reason: string; readonly retryMs: number } | undefined
}

const DIRECTORY = 'carried'
/** Carried bytes come after everything the device needs for itself. */
const PRIORITY = 10
/** A disk that is full or read-only now is not asked twice a second. */
const RETRY_MS = 15_000

/**
 * Keeps releases of other boards within a quota, so that any robot is a courier for all. Files are named by content;
 * an artifact that stands in a slot already is not stored again. Newest of each channel only.
 */
export class Carrier {
  readonly #deps: CarrierDeps
  readonly #carried = new Map<string, Carried>()
  readonly #working = new Set<string>()
  #wanted: ReadonlySet<string> = new Set()
  /** The last problem told of each release. */
  readonly #told = new Map<string, string>()

  constructor(deps: CarrierDeps) {
    this.#deps = deps
  }

  /** Ids of the releases that are here whole. */
  whole(): readonly string[] {
    return [...this.#carried].filter(([, entry]) => isWhole(entry)).map(([id]) => id)
  }

  list(): readonly {
    readonly release: Release
    readonly whole: boolean
    readonly percent: number
    /** Why it does not get on; empty when it does. */
    readonly problem: string
  }[] {
    return [...this.#carried.values()].map((entry) => {
      const { release, files, failed } = entry
      const chunks = files.reduce((sum, file) => sum + file.index.count, 0)
      const have = files.reduce((sum, file) => sum + file.have.count, 0)
      const percent = chunks === 0 ? 0 : Math.min(99, Math.floor((have * 100) / chunks))
      const whole = isWhole(entry)
      return { release, whole, percent: whole ? 100 : percent, problem: failed?.reason ?? '' }
    })
  }

  /** Brings what is carried in line with the current releases of other boards and channels. */
  async follow(pointers: readonly SignedPointer[], signal: AbortSignal): Promise<void> {
    const wanted = new Set(pointers.map((pointer) => pointer.sha256))
    this.#wanted = wanted
    for (const [id, entry] of this.#carried) if (!wanted.has(id)) await this.#drop(id, entry)
    for (const id of this.#told.keys()) if (!wanted.has(id)) this.#told.delete(id)
    for (const pointer of pointers) {
      const entry = this.#carried.get(pointer.sha256)
      const due = entry === undefined || (entry.failed?.retryMs ?? Infinity) <= performance.now()
      if (!due || this.#working.has(pointer.sha256)) continue
      this.#working.add(pointer.sha256)
      void this.#carry(pointer, signal)
        .catch((error: unknown) => {
          // Superseded meanwhile: it is not carried any more, and that is no failure.
          if (!signal.aborted && this.#wanted.has(pointer.sha256)) this.#failed(pointer.sha256, error)
        })
        .finally(() => this.#working.delete(pointer.sha256))
    }
    if (this.#working.size === 0) await this.#removeStrays()
  }

  /** What is here stays and is gone on with; said once, however often it is tried. */
  #failed(id: string, error: unknown): void {
    const entry = this.#carried.get(id)
    const reason = messageOf(error)
    this.#tell(id, reason)
    if (entry !== undefined) entry.failed = { reason, retryMs: performance.now() + RETRY_MS }
  }

  #tell(id: string, reason: string): void {
    if (this.#told.get(id) === reason) return
    this.#told.set(id, reason)
    this.#deps.log.add('warn', 'carry-failed', { release: id, error: reason })
  }

  async #carry(pointer: SignedPointer, signal: AbortSignal): Promise<void> {
    const release = await this.#deps.fetcher.description(pointer)
    const indexes = release === undefined ? undefined : await this.#deps.fetcher.indexes(release)
    if (release === undefined || indexes === undefined) return // nobody here has it yet; asked again with the next round
    const others = [...this.#carried.values()].filter((entry) => entry.release.id !== release.id)
    const used = others.reduce((sum, entry) => sum + releaseBytes(entry.release.description), 0)
    if (used + releaseBytes(release.description) > this.#deps.quotaBytes) {
      return this.#tell(release.id, 'over the quota (carryMiB)')
    }
    const before = this.#deps.fetchedBytes()
    const files: HeldFile[] = []
    const known = this.#carried.get(release.id)
    const entry: Carried = known ?? { release, files, stop: new AbortController(), whole: false, failed: undefined }
    entry.files = files
    const either = AbortSignal.any([signal, entry.stop.signal])
    this.#carried.set(release.id, entry)
    for (const artifact of release.description.artifacts) {
      const index = indexes.get(artifact.index.sha256)
      if (index === undefined) continue
      if (this.#deps.store.files(index.id).some((file) => !file.writable && file.have.complete)) continue
      const file = await this.#deps.store.begin(index, this.#deps.persist, `${DIRECTORY}/${artifact.sha256}`)
      files.push(file)
      this.#deps.chunks.foundLocally(await this.#deps.store.fillFromDevice(file))
      this.#deps.chunks.want(index, this.#deps.store.holds(index), PRIORITY)
    }
    await Promise.all(files.map((file) => this.#deps.chunks.completed(file, either)))
    entry.whole = true
    entry.failed = undefined
    this.#deps.log.add('info', 'fetched', {
      release: release.id,
      version: release.description.version,
      bytes: this.#deps.fetchedBytes() - before,
    })
    this.#deps.log.add('info', 'carried', {
      release: release.id,
      board: release.description.board,
      version: release.description.version,
    })
  }

  async #drop(id: string, entry: Carried): Promise<void> {
    this.#carried.delete(id)
    entry.stop.abort(new Error('no longer carried'))
    const shared = new Set([...this.#carried.values()].flatMap((other) => other.files.map((file) => file.path)))
    for (const file of entry.files) {
      if (shared.has(file.path)) continue
      await this.#deps.store.drop(file)
      if (this.#deps.store.files(file.index.id).length === 0) this.#deps.chunks.forget(file.index.id)
      await this.#deps.persist.remove(file.path)
    }
  }

  /** Files of releases that were superseded while the device was off: they would stay outside the quota for ever. */
  async #removeStrays(): Promise<void> {
    const kept = new Set([...this.#carried.values()].flatMap((entry) => entry.files.map((file) => file.path)))
    for (const name of await this.#deps.persist.list(DIRECTORY)) {
      if (!kept.has(`${DIRECTORY}/${name}`)) await this.#deps.persist.remove(`${DIRECTORY}/${name}`)
    }
  }
}

/** Complete once, and no chunk has turned out to be rotten since. */
function isWhole({ whole, files }: Carried): boolean {
  return whole && files.every((file) => file.have.complete)
}
