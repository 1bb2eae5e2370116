import type { BackupHead } from '../../protocol/backup/backup-head.ts'
import { seal } from '../../protocol/backup/seal.ts'
import type { BackupSpec } from '../../protocol/core/backup-spec.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { formatBytes } from '../../protocol/terminal/print.ts'
import type { EventLog } from '../control/event-log.ts'
import type { Hold } from '../control/reboot-gate.ts'
import type { Core } from '../core/open-core.ts'
import { SETTLE_MS } from '../core/execute-core.ts'
import { Engine } from '../core/engine.ts'
import { chooseBackup, type ContainerBackup } from './choose-backup.ts'
import { EngineReader } from './engine-reader.ts'
import { isDue } from './is-due.ts'
import { type Job, JobList } from './job-list.ts'
import { makeBackup, nameTag } from './make-backup.ts'
import type { OwnRepository } from './own-repository.ts'
import type { OnProgress } from './restic.ts'
import { restoreBackup } from './restore-backup.ts'
import type { RestoreJournal } from './restore-journal.ts'
import type { StillnessJournal } from './stillness-journal.ts'

export type BackupKeeperDeps = {
  readonly own: OwnRepository
  readonly core: Pick<Core, 'reconciler' | 'lockDirectory'>
  readonly engineSocket: string
  readonly dataDirectory: string
  readonly device: string
  readonly signedImages: () => ReadonlySet<string>
  readonly recoveryKey: () => string | undefined
  readonly distrusted: () => readonly string[]
  readonly floorMs: () => number
  readonly still: StillnessJournal
  readonly restores: RestoreJournal
  /** Puts in order what was left in the middle. */
  readonly recover: (engine: Engine) => Promise<void>
  readonly log: EventLog
  readonly signal: AbortSignal
}

/** How the backups of one container stand. */
export type BackupStatus = {
  readonly container: string
  /** Seconds since the last; -1 before the first. */
  readonly ageSeconds: number
  readonly problem: string
}

const LOOK_MS = 15_000
const PRUNE_MS = 86_400_000
const DEFAULT_COPIES = 3
const HOUR_MS = 3_600_000
/** A backup that hangs does not keep a device from its release for ever. */
const MOST_HOLD_MS = HOUR_MS
const MAX_RESULT = 1_048_576

/** Makes backups when they are due, keeps what the policies say, restores; one at a time. */
export class BackupKeeper {
  readonly jobs = new JobList()
  readonly #deps: BackupKeeperDeps
  readonly #attemptMs = new Map<string, number>()
  readonly #problems = new Map<string, string>()
  #specs: ReadonlyMap<string, BackupSpec> = new Map()
  #sealed = { of: '', text: '' }
  #upgrade = { target: '', untilMs: 0, isDone: true }
  #timer: NodeJS.Timeout | undefined

  constructor(deps: BackupKeeperDeps) {
    this.#deps = deps
  }

  start(): void {
    this.#timer = setInterval(() => void this.#look(), LOOK_MS)
    void this.#look()
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer)
    await this.jobs.settled()
  }

  /** How it stands with each container that has a policy. */
  status(): readonly BackupStatus[] {
    const { lastMs } = this.#deps.own.state
    return [...this.#specs.keys()].map((container) => {
      const last = lastMs[container]
      return {
        container,
        ageSeconds: last === undefined ? -1 : Math.max(0, Math.round((Date.now() - last) / 1_000)),
        problem: this.#problems.get(container) ?? '',
      }
    })
  }

  /** What the device's record says of its backups; undefined before the first. */
  head(): BackupHead | undefined {
    const { own, distrusted } = this.#deps
    const { lines: _lines, prunedMs: _prunedMs, lastMs, ...told } = own.state
    if (told.list === '') return undefined
    const rates = [...this.#specs.values()].flatMap(({ bytesPerSecond }) => bytesPerSecond ?? [])
    const newest = Math.max(0, ...Object.values(lastMs))
    return {
      ...told,
      copies:
        this.#specs.size === 0 ? DEFAULT_COPIES : Math.max(...[...this.#specs.values()].map(({ copies }) => copies)),
      bytesPerSecond: rates.length === 0 ? 0 : Math.min(...rates),
      hoursOld: Math.max(0, Math.floor((Date.now() - newest) / HOUR_MS)),
      sealed: this.#seal(),
      distrusted: distrusted().slice(0, 8),
    }
  }

  /** A device that is about to reboot into another release makes backups first: a reason to wait, until they are made or failed. */
  async holdFor(target: string): Promise<readonly Hold[]> {
    if (this.#upgrade.target !== target) {
      const containers = await this.#toSaveBeforeUpgrade()
      const upgrade = { target, untilMs: performance.now() + MOST_HOLD_MS, isDone: containers.length === 0 }
      this.#upgrade = upgrade
      void this.#backUpAll(containers).finally(() => (upgrade.isDone = true))
    }
    const { isDone, untilMs } = this.#upgrade
    return isDone || performance.now() > untilMs ? [] : [{ reason: 'backing up before the upgrade', untilMs }]
  }

  /** A file that cannot be read keeps no device from the release that may mend it. */
  async #toSaveBeforeUpgrade(): Promise<readonly string[]> {
    try {
      return [...(await this.#policies())].filter(([, { beforeUpgrade }]) => beforeUpgrade).map(([name]) => name)
    } catch (error) {
      this.#deps.log.add('error', 'backup-failed', { container: '', code: 'BAD_CONFIG', error: messageOf(error) })
      return []
    }
  }

  /** One after the other; what fails is told. */
  async #backUpAll(containers: readonly string[]): Promise<void> {
    for (const name of containers) {
      try {
        await this.#backUp(name).ended
      } catch (error) {
        this.#deps.log.add('error', 'backup-failed', { container: name, code: 'BUSY', error: messageOf(error) })
      }
    }
  }

  /** @returns a job for each container @throws FlotillaError NOT_FOUND, BAD_CONFIG */
  async backUpNow(container: string | undefined): Promise<readonly Job[]> {
    const specs = await this.#policies()
    if (container !== undefined && !specs.has(container))
      throw new FlotillaError(
        'NOT_FOUND',
        `back up ${container}: containers.${container} has no \`backup:\` in skiff-core.yaml (${[...specs.keys()].join(', ') || 'no container has'})`,
      )
    if (specs.size === 0)
      throw new FlotillaError('NOT_FOUND', 'back up: no container has `backup:` in skiff-core.yaml; give one a policy')
    return (container === undefined ? [...specs.keys()] : [container]).map((name) => this.#backUp(name).job)
  }

  async list(container?: string): Promise<readonly ContainerBackup[]> {
    const { own, signal } = this.#deps
    if (!own.exists) return []
    const found = await own.restic.list(signal, container === undefined ? undefined : nameTag(container))
    return found.flatMap(({ id, time, tags }) => {
      const tag = tags.find((one) => one.startsWith(nameTag('')))
      return tag === undefined ? [] : [{ id, time, container: tag.slice(nameTag('').length) }]
    })
  }

  verify(readData: boolean): Job {
    const { own, signal } = this.#deps
    return this.jobs.add('verify', '', async (onProgress) => {
      if (!own.exists) throw new FlotillaError('NOT_FOUND', 'verify backups: this device has none')
      onProgress(0, readData ? 'reading every pack' : 'checking the structure')
      await own.restic.check(readData, { signal })
      return readData ? 'every pack was read and decrypted' : 'its structure is whole'
    }).job
  }

  async diff(older: string, newer: string): Promise<Job> {
    const { own, signal } = this.#deps
    const all = await this.list()
    const [from, to] = [chooseBackup(all, older), chooseBackup(all, newer)]
    return this.jobs.add('diff', from.container, async () =>
      (await own.restic.diff(from.id, to.id, signal)).slice(0, MAX_RESULT),
    ).job
  }

  /** @param at - a time, the beginning of an id, or undefined for the newest @throws FlotillaError NOT_FOUND */
  async restore(
    container: string,
    at: string | undefined,
    mountsOnly: boolean,
  ): Promise<{ job: Job; ended: Promise<Job> }> {
    const chosen = chooseBackup(await this.list(container), at, container)
    return this.jobs.add('restore', container, (onProgress) =>
      this.restoreNow(container, chosen, mountsOnly, onProgress),
    )
  }

  async restoreNow(
    container: string,
    chosen: ContainerBackup,
    mountsOnly: boolean,
    onProgress: OnProgress,
  ): Promise<string> {
    const { core, own, engineSocket, restores, log, signal } = this.#deps
    const { core: file } = await core.reconciler.file()
    const spec = file.containers.get(container)
    if (spec === undefined)
      throw new FlotillaError('NOT_FOUND', `restore ${container}: skiff-core.yaml of this device does not name it`)
    const engine = await this.#engine()
    await restoreBackup(
      { container, spec, backup: chosen.id, mountsOnly },
      {
        engine,
        reader: await EngineReader.open(engineSocket),
        restic: own.restic,
        workDirectory: own.workDirectory,
        lockDirectory: core.lockDirectory,
        journal: restores,
        suspend: (name, why) => core.reconciler.suspend(name, why),
        imageFor: (name) => core.reconciler.imageFor(name, signal),
        settleMs: SETTLE_MS,
        signal,
      },
      onProgress,
    )
    log.add('info', 'restored', { container, backup: chosen.id, time: chosen.time })
    return `restored as it was at ${chosen.time}`
  }

  /** Works on the repository when nothing else does. @throws what the work throws */
  async alone<T>(what: string, work: () => Promise<T>): Promise<T> {
    let outcome: { readonly value: T } | { readonly error: unknown } | undefined
    await this.jobs.add(what, '', async () => {
      try {
        outcome = { value: await work() }
        return 'done'
      } catch (error) {
        outcome = { error }
        throw error
      }
    }).ended
    if (outcome === undefined) throw new FlotillaError('UNEXPECTED', `${what}: it was not done`)
    if ('error' in outcome) throw outcome.error
    return outcome.value
  }

  coreFile(): ReturnType<Core['reconciler']['file']> {
    return this.#deps.core.reconciler.file()
  }

  async #look(): Promise<void> {
    try {
      const specs = await this.#policies()
      for (const [container, { schedule }] of specs) {
        if (schedule === undefined || this.jobs.all().some((job) => isSame(job, container))) continue
        const attemptMs = this.#attemptMs.get(container)
        const due = isDue({
          schedule,
          lastMs: this.#deps.own.state.lastMs[container],
          sinceAttemptMs: attemptMs === undefined ? undefined : performance.now() - attemptMs,
          wall: new Date(),
          floorMs: this.#deps.floorMs(),
        })
        if (due) this.#backUp(container)
      }
    } catch (error) {
      // A file that cannot be read is told of by who keeps the containers.
      this.#deps.log.add('debug', 'backup-look-failed', { error: messageOf(error) })
    }
  }

  /** Jobs follow each other: what one that was cut off left is put in order before the next begins. */
  async #engine(): Promise<Engine> {
    const { engineSocket, recover } = this.#deps
    const engine = await Engine.open(engineSocket)
    await recover(engine)
    return engine
  }

  async #policies(): Promise<ReadonlyMap<string, BackupSpec>> {
    const { core } = await this.#deps.core.reconciler.file()
    this.#specs = new Map(
      [...core.containers].flatMap(([name, { backup }]) => (backup === undefined ? [] : [[name, backup]])),
    )
    return this.#specs
  }

  #backUp(container: string): { readonly job: Job; readonly ended: Promise<Job> } {
    this.#attemptMs.set(container, performance.now())
    const { job, ended } = this.jobs.add('backup', container, (onProgress) => this.#make(container, onProgress))
    void ended.then(({ state, result, code }) => {
      if (state !== 'failed') return
      this.#problems.set(container, result)
      this.#deps.log.add('error', 'backup-failed', { container, code, error: result })
    })
    return { job, ended }
  }

  async #make(container: string, onProgress: OnProgress): Promise<string> {
    const { own, core, engineSocket, log, signal } = this.#deps
    const spec = (await this.#policies()).get(container)
    if (spec === undefined) throw new FlotillaError('NOT_FOUND', `back up ${container}: it has no policy any more`)
    onProgress(0, 'opening the repository')
    const restic = await own.require(signal)
    const { text } = await core.reconciler.file()
    const atMs = Math.max(Date.now(), this.#deps.floorMs())
    const made = await makeBackup(
      container,
      spec,
      {
        engine: await this.#engine(),
        reader: await EngineReader.open(engineSocket),
        restic,
        workDirectory: own.workDirectory,
        dataDirectory: this.#deps.dataDirectory,
        device: this.#deps.device,
        signedImages: this.#deps.signedImages,
        coreFile: text,
        journal: this.#deps.still,
        suspend: (name, why) => core.reconciler.suspend(name, why),
        time: new Date(atMs),
        log,
        signal,
      },
      (share, words) => onProgress(share * 0.9, words),
    )
    await own.noteBackup(container, atMs)
    this.#problems.delete(container)
    if (made.unread !== '') {
      this.#problems.set(container, `the last backup is not complete: ${made.unread}`)
      log.add('error', 'backup-incomplete', { container, unread: made.unread })
    }
    onProgress(0.92, 'forgetting what is not to be kept')
    const policies = new Map([...this.#specs].map(([name, { keep }]) => [name, keep]))
    const sinceMs = Math.abs(Date.now() - own.state.prunedMs)
    await own.forget(policies, sinceMs > PRUNE_MS, signal)
    onProgress(0.95, 'checking the repository')
    await own.publish(signal)
    const { addedBytes, totalBytes, stillMs } = made
    log.add('info', 'backed-up', { container, backup: made.id, addedBytes, totalBytes, stillMs })
    return `${made.id.slice(0, 8)}: ${formatBytes(totalBytes)}, ${formatBytes(addedBytes)} new${made.unread === '' ? '' : `; not complete: ${made.unread}`}`
  }

  /** The same text as long as key and password are: a record that changes every time would be told every time. */
  #seal(): string {
    const key = this.#deps.recoveryKey()
    if (key === undefined) return ''
    const of = `${key} ${this.#deps.own.password}`
    if (this.#sealed.of !== of) this.#sealed = { of, text: seal(this.#deps.own.password, key) }
    return this.#sealed.text
  }
}

function isSame({ kind, container, state }: Job, wanted: string): boolean {
  return kind === 'backup' && container === wanted && (state === 'waiting' || state === 'running')
}
