import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { BackupKeeper } from '../../agent/backup/backup-keeper.ts'
import type { Job } from '../../agent/backup/job-list.ts'
import { OwnRepository } from '../../agent/backup/own-repository.ts'
import { recoverInterrupted } from '../../agent/backup/recover-interrupted.ts'
import { type RestoreEntry, restoreJournal } from '../../agent/backup/restore-journal.ts'
import { stillnessJournal } from '../../agent/backup/stillness-journal.ts'
import { NodeDisk } from '../../agent/store/node-disk.ts'
import { CoreRig } from '../core/core-rig.ts'
import type { EngineRig } from '../core/engine-rig.ts'

/** A device's backups with a real engine and a real restic, without the network. */
export class BackupRig {
  readonly core: CoreRig
  readonly backups: string
  signed = new Set<string>()
  recoveryKey: string | undefined
  floorMs = 0
  /** A restore is cut off when its journal comes to say this. */
  cutAt: RestoreEntry['phase'] | undefined
  #keeper: BackupKeeper | undefined
  #own: OwnRepository | undefined
  #disk: NodeDisk | undefined
  #stop = new AbortController()

  constructor(engine: EngineRig) {
    this.core = new CoreRig(engine)
    this.backups = join(this.core.data, 'backups')
  }

  get keeper(): BackupKeeper {
    if (this.#keeper === undefined) throw new Error('not started')
    return this.#keeper
  }

  get own(): OwnRepository {
    if (this.#own === undefined) throw new Error('not started')
    return this.#own
  }

  async start(): Promise<void> {
    this.#stop = new AbortController()
    const disk = new NodeDisk(this.core.persist)
    this.#disk = disk
    mkdirSync(this.backups, { recursive: true })
    const still = stillnessJournal(disk)
    const restores = restoreJournal(disk)
    const note = restores.note.bind(restores)
    restores.note = async (entry) => {
      await note(entry)
      if (entry.phase === this.cutAt) throw new Error('cut off')
    }
    const own = await OwnRepository.open(this.backups, disk, this.core.persist, DEVICE, this.core.log)
    this.#own = own
    const { signal } = this.#stop
    const recovery = { own, still, restores, log: this.core.log, engineSocket: this.core.engine.socket, signal }
    this.core.onEngine = async (engine) => {
      if (this.#keeper?.jobs.isBusy !== true) await recoverInterrupted({ ...recovery, engine })
    }
    await this.core.start()
    this.#keeper = new BackupKeeper({
      own,
      core: { reconciler: this.core.reconciler, lockDirectory: this.core.lockDirectory },
      engineSocket: this.core.engine.socket,
      dataDirectory: this.core.data,
      device: DEVICE,
      signedImages: () => this.signed,
      recoveryKey: () => this.recoveryKey,
      distrusted: () => [],
      floorMs: () => this.floorMs,
      still,
      restores,
      recover: (engine) => recoverInterrupted({ ...recovery, engine }),
      log: this.core.log,
      signal: this.#stop.signal,
    })
  }

  /** As a crash would: nothing is finished. */
  async stop(): Promise<void> {
    this.#stop.abort(new Error('stopping'))
    await this.#keeper?.stop()
    await this.core.stop()
    await this.#disk?.close()
  }

  async ended(job: Job, timeoutMs = 120_000): Promise<Job> {
    for (const deadline = performance.now() + timeoutMs; ; await pause(20)) {
      const now = this.keeper.jobs.get(job.id)
      if (now.state === 'done' || now.state === 'failed') return now
      if (performance.now() > deadline) throw new Error(`${JSON.stringify(now)} does not end`)
    }
  }

  /** Backs up and gives the job that did, which must have been done. */
  async backUp(container: string): Promise<Job> {
    const [job] = await this.keeper.backUpNow(container)
    if (job === undefined) throw new Error('no job')
    return this.#done(await this.ended(job))
  }

  async restore(container: string, at?: string, mountsOnly = false): Promise<Job> {
    return this.#done(await this.ended((await this.keeper.restore(container, at, mountsOnly)).job))
  }

  #done(job: Job): Job {
    if (job.state !== 'done') throw new Error(`${job.kind} ${job.container}: ${job.code} ${job.result}`)
    return job
  }
}

export const DEVICE = '12D3KooWGz9dLrLxV6NuKyNBpkz2hSXJ7L2RnpPBYuGVFgFNi3kC'
