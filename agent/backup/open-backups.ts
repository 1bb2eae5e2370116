import { join } from 'node:path'
import type { BackupHead, HolderState } from '../../protocol/backup/backup-head.ts'
import { sealPairOf } from '../../protocol/backup/seal.ts'
import { messageOf } from '../../protocol/errors.ts'
import type { RecordBook } from '../../protocol/gossip/record-book.ts'
import type { FleetPolicy } from '../../protocol/membership/fleet-policy.ts'
import type { FleetNode } from '../../protocol/network/fleet-node.ts'
import { shape } from '../../protocol/shape.ts'
import type { EventLog } from '../control/event-log.ts'
import type { LocalApi } from '../control/local-api.ts'
import type { Hold } from '../control/reboot-gate.ts'
import type { Engine } from '../core/engine.ts'
import type { Core } from '../core/open-core.ts'
import type { Disk } from '../store/disk.ts'
import { Adopter } from './adopter.ts'
import type { BackupConfig } from './backup-config.ts'
import { BackupKeeper, type BackupStatus } from './backup-keeper.ts'
import type { Job } from './job-list.ts'
import { OwnRepository } from './own-repository.ts'
import { recoverInterrupted } from './recover-interrupted.ts'
import { ReplicaKeeper } from './replica-keeper.ts'
import { percentOf, ReplicaStore } from './replica-store.ts'
import { restoreJournal } from './restore-journal.ts'
import { stillnessJournal } from './stillness-journal.ts'
import { wholeCopies } from './survey-backups.ts'

export type BackupsDeps = {
  readonly config: BackupConfig
  readonly persist: Disk
  readonly persistPath: string
  /** `/mnt/persist/skiff`. */
  readonly dataDirectory: string
  readonly engineSocket: string
  readonly self: string
  /** Secret seed of the device's identity. */
  readonly seed: Uint8Array
  readonly node: FleetNode
  readonly book: RecordBook
  readonly policy: () => FleetPolicy
  readonly floorMs: () => number
  readonly signedImages: () => ReadonlySet<string>
  readonly isBusy: () => boolean
  readonly spend: (peer: string, bytes: number, isWanted: () => boolean) => Promise<void>
  readonly onMoved: (direction: 'fetched' | 'served', bytes: number, peer: string) => void
  readonly log: EventLog
}

/** What `flotilla backup status` shows. */
export type BackupsView = {
  readonly containers: readonly BackupStatus[]
  readonly head: BackupHead | null
  readonly copies: readonly {
    readonly name: string
    readonly percent: number
    readonly daysUnchecked: number
    readonly ageSeconds: number
    readonly note: string
  }[]
  readonly offeredBytes: number
  readonly freeBytes: number
  readonly replicas: readonly {
    readonly repository: string
    readonly name: string
    readonly percent: number
    readonly bytes: number
    readonly daysUnchecked: number
    readonly note: string
  }[]
  readonly notes: readonly string[]
}

/** The backups of this device and what it holds of others, for the rest of the agent. */
export type Backups = {
  /** For the record of this device. */
  readonly head: () => BackupHead | undefined
  readonly holder: () => HolderState
  readonly routes: LocalApi
  readonly holdFor: (target: string) => Promise<readonly Hold[]>
  readonly stop: () => Promise<void>
}

/** Opens what is on disk; nothing is done before `start`, since the containers come after it. */
export async function openBackups(deps: BackupsDeps): Promise<{
  readonly onEngine: (engine: Engine) => Promise<void>
  readonly start: (core: Core) => Promise<Backups>
}> {
  const { persist, persistPath, dataDirectory, engineSocket, self, log } = deps
  const directory = join(dataDirectory, 'backups')
  const own = await OwnRepository.open(directory, persist, persistPath, self, log)
  const store = await ReplicaStore.open(join(directory, 'replicas'), (repository, error) =>
    log.add('error', 'replica-unreadable', { repository, error: messageOf(error) }),
  )
  const still = stillnessJournal(persist)
  const restores = restoreJournal(persist)
  const stop = new AbortController()
  const { signal } = stop
  let recovering: Promise<void> | undefined
  // Whoever opens the engine first recovers, the other waits for it: nothing is planned, or backed up, in the middle of it.
  const recover = (engine: Engine) => {
    recovering ??= recoverInterrupted({ engine, engineSocket, own, still, restores, log, signal }).finally(
      () => (recovering = undefined),
    )
    return recovering
  }
  let keeper: BackupKeeper | undefined
  return {
    // A job that is under way is not what was left in the middle, and puts in order what is before it begins.
    onEngine: async (engine) => {
      if (recovering !== undefined || keeper?.jobs.isBusy !== true) await recover(engine)
    },
    start: async (core) => {
      const sealPair = sealPairOf(deps.seed)
      const replicas: ReplicaKeeper = new ReplicaKeeper({ ...deps, store, own, sealKey: sealPair.publicHex, signal })
      const made = new BackupKeeper({
        own,
        core,
        engineSocket,
        dataDirectory,
        device: self,
        signedImages: deps.signedImages,
        recoveryKey: () => deps.policy().recoveryKey,
        distrusted: () => replicas.distrusted(),
        floorMs: deps.floorMs,
        still,
        restores,
        recover,
        log,
        signal,
      })
      keeper = made
      const adopter = new Adopter({
        ...deps,
        sealPair,
        own,
        keeper: made,
        replicas,
        store,
        coreDirectory: join(dataDirectory, 'core'),
        poke: () => core.reconciler.poke(),
        signal,
      })
      await replicas.start()
      await adopter.start()
      made.start()
      return {
        head: () => made.head(),
        holder: () => replicas.state(),
        holdFor: (target) => made.holdFor(target),
        routes: {
          ...backupRoutes(made),
          'GET /backup': () => view(deps, own, store, made, replicas, adopter),
        },
        stop: async () => {
          stop.abort(new Error('stopping'))
          await Promise.all([replicas.stop(), adopter.stop(), made.stop()])
          await store.close()
        },
      }
    },
  }
}

function backupRoutes(keeper: BackupKeeper): LocalApi {
  const optional = (json: ReturnType<typeof shape.object>, key: string) =>
    json[key] === undefined ? undefined : shape.string(json[key], `backup: ${key}`, 256)
  const object = (body: unknown) => shape.object(body ?? {}, 'backup')
  return {
    'POST /backup/now': (body) => keeper.backUpNow(optional(object(body), 'container')),
    'POST /backup/list': (body) => keeper.list(optional(object(body), 'container')),
    'POST /backup/job': (body): Job => keeper.jobs.get(shape.integer(object(body)['id'], 'backup: id', 0)),
    'POST /backup/verify': (body) => keeper.verify(object(body)['readData'] === true),
    'POST /backup/diff': (body) =>
      keeper.diff(
        shape.string(object(body)['older'], 'backup: older', 256),
        shape.string(object(body)['newer'], 'backup: newer', 256),
      ),
    'POST /backup/restore': async (body) => {
      const json = object(body)
      const container = shape.string(json['container'], 'backup: container', 128)
      return (await keeper.restore(container, optional(json, 'at'), json['mountsOnly'] === true)).job
    },
  }
}

function view(
  { config, policy }: BackupsDeps,
  own: OwnRepository,
  store: ReplicaStore,
  keeper: BackupKeeper,
  replicas: ReplicaKeeper,
  adopter: Adopter,
): BackupsView {
  const known = replicas.survey.get(own.state.repository)
  const head = keeper.head() ?? null
  const whole = known === undefined ? [] : wholeCopies(known, config.absentMs)
  const { offeredBytes, freeBytes } = replicas.state()
  const distrusted = new Set(replicas.distrusted())
  const notes = [
    ...(adopter.note === '' ? [] : [adopter.note]),
    ...(head !== null && policy().recoveryKey === undefined
      ? ['the fleet has no recovery key: nobody but this device can open its backups (flotilla recovery init)']
      : []),
    ...(head !== null && whole.length < head.copies
      ? [`${whole.length} of ${head.copies} copies are whole and in reach`]
      : []),
    ...(replicas.noteOf(own.state.repository) === '' ? [] : [replicas.noteOf(own.state.repository)]),
  ]
  return {
    containers: keeper.status(),
    head,
    copies: (known?.copies ?? []).map(({ device, name, percent, daysUnchecked, ageMs, seq }) => ({
      name,
      percent,
      daysUnchecked,
      ageSeconds: Math.round(ageMs / 1_000),
      note: distrusted.has(device)
        ? 'could not prove that it has it'
        : ageMs > config.absentMs
          ? 'not heard of'
          : head !== null && seq < head.seq
            ? 'of an earlier backup'
            : '',
    })),
    offeredBytes,
    freeBytes,
    replicas: store.all().map((replica) => ({
      repository: replica.repository,
      name: replica.owner.name,
      percent: percentOf(replica),
      bytes: replica.head.bytes,
      daysUnchecked: Math.floor(replica.clocks.uncheckedSeconds / 86_400),
      note: replicas.noteOf(replica.repository),
    })),
    notes,
  }
}
