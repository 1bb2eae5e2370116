import { join } from 'node:path'
import { placeOf } from '../../protocol/boot/slot-layout.ts'
import type { Release } from '../../protocol/release/description.ts'
import type { ReleasePointer } from '../../protocol/release/find-release.ts'
import { shape } from '../../protocol/shape.ts'
import type { EventLog } from '../control/event-log.ts'
import type { LocalApi } from '../control/local-api.ts'
import { type Hold, MAX_HOLD_SECONDS } from '../control/reboot-gate.ts'
import type { ChunkSource } from '../slots/write-release.ts'
import type { ArtifactStore } from '../store/artifact-store.ts'
import type { Disk } from '../store/disk.ts'
import type { ReleaseFetcher } from '../store/release-fetcher.ts'
import { LoginServer } from '../login/login-server.ts'
import { openUsers, type UserStatus } from '../login/open-users.ts'
import type { Readiness } from '../login/session.ts'
import { CoreMemory } from './core-memory.ts'
import { SETTLE_MS } from './execute-core.ts'
import type { Engine } from './engine.ts'
import { ImageKeeper } from './image-keeper.ts'
import { type CoreStatus, Reconciler } from './reconciler.ts'
import { imageDigests, SignedImages } from './signed-images.ts'
import { UpdateLocks } from './update-locks.ts'

export type CoreDeps = {
  readonly persist: Disk
  readonly persistPath: string
  /** `/mnt/persist/skiff`: containers' data, and the device's own file in `core/`. */
  readonly dataDirectory: string
  /** Where programs of this boot leave things, such as containers' wishes not to be stopped. */
  readonly runDirectory: string
  readonly engineSocket: string
  /** The login shell of accounts that `users:` asks for; undefined makes no accounts. */
  readonly loginShell: string | undefined
  readonly running: () => Release | undefined
  readonly releasesInSlots: () => Promise<readonly Release[]>
  readonly pointers: () => readonly ReleasePointer[]
  readonly fetcher: ReleaseFetcher
  readonly store: ArtifactStore
  readonly chunks: ChunkSource
  /** Puts in order what a backup or restore left in the middle. */
  readonly onEngine: (engine: Engine) => Promise<void>
  readonly log: EventLog
}

/** The containers of this device, for the rest of the agent. */
export type Core = {
  readonly status: () => CoreStatus & { readonly users: readonly UserStatus[] }
  readonly routes: LocalApi
  /** Containers that must not be stopped: a reboot stops them too. */
  readonly holds: () => Promise<readonly Hold[]>
  /** Whether a container that ran before the update does not on purpose. */
  readonly isUnwanted: (name: string) => boolean
  readonly stop: () => Promise<void>
  /** For who reads or replaces containers: what is wanted, where, and a way to be left alone. */
  readonly reconciler: Pick<Reconciler, 'suspend' | 'file' | 'imageFor' | 'poke'>
  readonly lockDirectory: string
}

/** Joins the parts that keep containers as `skiff-core.yaml` says, and starts them. */
export async function openCore(deps: CoreDeps): Promise<Core> {
  const stop = new AbortController()
  const lockDirectory = join(deps.runDirectory, 'locks')
  const locks = new UpdateLocks(lockDirectory)
  const directory = join(deps.dataDirectory, 'core')
  const memory = await CoreMemory.open(deps.persist)
  const images: ImageKeeper = new ImageKeeper({
    remember: async (digest) => {
      memory.loaded.add(digest)
      await memory.save()
    },
    signed: new SignedImages(deps),
    persistPath: deps.persistPath,
    workDirectory: join(directory, 'tmp'),
    log: deps.log,
    onChange: () => reconciler.poke(),
    signal: stop.signal,
  })
  const logins = new LoginServer({
    directory: join(deps.runDirectory, 'login'),
    engineSocket: deps.engineSocket,
    readiness: (container) => readinessOf(reconciler.status, container),
    log: deps.log,
    signal: stop.signal,
  })
  const users = await openUsers(deps, logins)
  const reconciler = new Reconciler({
    engineSocket: deps.engineSocket,
    directory,
    released: () => releasedFile(deps.running(), deps.persistPath),
    images,
    memory,
    imagesInSlots: async () => imageDigests(await deps.releasesInSlots()),
    locks,
    lockDirectory,
    dataDirectory: deps.dataDirectory,
    settleMs: SETTLE_MS,
    log: deps.log,
    onEngine: deps.onEngine,
    onFile: ({ core }) => users.follow(core.users),
    signal: stop.signal,
  })
  const ended = reconciler.run()
  const status = () => ({ ...reconciler.status, users: users.status() })
  return {
    status,
    routes: { ...coreRoutes(reconciler, locks), 'GET /core': status },
    holds: async () =>
      [...(await reconciler.holds())].map(([name, reason]) => ({
        reason: `container ${name}: ${reason}`,
        untilMs: Infinity,
      })),
    reconciler,
    lockDirectory,
    isUnwanted: (name) => reconciler.isUnwanted(name),
    stop: async () => {
      stop.abort(new Error('stopping'))
      await ended
      await logins.stop()
    },
  }
}

/** Where the release's file lies, undefined when it brings none. */
function releasedFile(release: Release | undefined, persistPath: string): string | undefined {
  const artifact = release?.description.artifacts.find(({ kind }) => kind === 'skiff-core')
  return release && artifact && join(persistPath, placeOf(release.id, artifact).path)
}

/** Whether it is worth to wait for a container, for who wants to log into it. */
function readinessOf({ problem, code, containers, file }: CoreStatus, name: string): Readiness {
  const found = containers.find((one) => one.name === name)
  if (problem !== '') return { willBe: code === 'UNREACHABLE', reason: problem }
  if (found === undefined) return { willBe: file === '', reason: file === '' ? '' : 'it is not in the file any more' }
  return { willBe: found.state === 'changing' || found.state === 'waiting', reason: found.reason }
}

function coreRoutes(reconciler: Reconciler, locks: UpdateLocks): LocalApi {
  const nameIn = (body: unknown) => shape.string(shape.object(body, 'core')['container'], 'core: container', 128)
  return {
    'GET /core/plan': () => reconciler.plan(),
    'POST /core/retry': (body) => reconciler.retry(nameIn(body)),
    'POST /core/adopt': (body) => reconciler.adopt(nameIn(body)),
    'POST /core/hold': (body) => {
      const json = shape.object(body, 'core hold')
      const reason = shape.string(json['reason'], 'core hold: reason', 200)
      const seconds = shape.integer(json['seconds'], 'core hold: seconds', 1, MAX_HOLD_SECONDS)
      locks.add(nameIn(body), reason, seconds)
      return { container: nameIn(body), reason, seconds }
    },
    'POST /core/release-hold': (body) => {
      const reason = shape.object(body, 'core release-hold')['reason']
      const left = locks.release(
        nameIn(body),
        reason === undefined ? undefined : shape.string(reason, 'core release-hold: reason', 200),
      )
      reconciler.poke()
      return { holds: left }
    },
  }
}
