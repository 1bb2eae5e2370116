import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { stringify } from 'yaml'
import { EventLog } from '../../agent/control/event-log.ts'
import { CoreMemory } from '../../agent/core/core-memory.ts'
import type { Engine } from '../../agent/core/engine.ts'
import { ImageKeeper } from '../../agent/core/image-keeper.ts'
import { type ContainerStatus, type CoreStatus, Reconciler } from '../../agent/core/reconciler.ts'
import type { SignedImages } from '../../agent/core/signed-images.ts'
import { UpdateLocks } from '../../agent/core/update-locks.ts'
import { NodeDisk } from '../../agent/store/node-disk.ts'
import type { EngineRig } from './engine-rig.ts'

/** No release is there: images come from the engine, a registry, or a build. */
const NO_RELEASE: Pick<SignedImages, 'released' | 'find' | 'fetch' | 'forget'> = {
  released: () => undefined,
  find: async () => undefined,
  fetch: async () => '',
  forget: async () => {},
}

/** A device's reconciler with a real engine, without the rest of the agent. */
export class CoreRig {
  readonly engine: EngineRig
  readonly directory: string
  readonly persist: string
  readonly data: string
  readonly locks: UpdateLocks
  readonly lockDirectory: string
  readonly steps: string[] = []
  readonly log: EventLog
  /** Called before each step, with what it is about. */
  onStep: (step: string) => void = () => {}
  /** Called when the engine answers. */
  onEngine: (engine: Engine) => Promise<void> = async () => {}
  #reconciler: Reconciler | undefined
  #stop = new AbortController()
  #ended: Promise<void> = Promise.resolve()

  constructor(engine: EngineRig) {
    this.engine = engine
    this.directory = mkdtempSync(join(engine.directory, 'device-'))
    this.persist = join(this.directory, 'flotilla')
    this.data = join(this.directory, 'skiff')
    this.lockDirectory = join(this.directory, 'locks')
    this.locks = new UpdateLocks(this.lockDirectory)
    for (const path of [this.persist, join(this.data, 'core')]) mkdirSync(path, { recursive: true })
    this.log = new EventLog(join(this.persist, 'log'), () => {})
  }

  get reconciler(): Reconciler {
    if (this.#reconciler === undefined) throw new Error('not started')
    return this.#reconciler
  }

  get status(): CoreStatus {
    return this.reconciler.status
  }

  write(core: unknown, file = 'skiff-core.yaml'): void {
    writeFileSync(join(this.data, 'core', file), typeof core === 'string' ? core : stringify(core))
  }

  async start(): Promise<void> {
    this.#stop = new AbortController()
    const { signal } = this.#stop
    const { log } = this
    const images: ImageKeeper = new ImageKeeper({
      signed: NO_RELEASE as SignedImages,
      remember: async () => {},
      persistPath: this.persist,
      workDirectory: join(this.data, 'core/tmp'),
      log,
      onChange: () => this.#reconciler?.poke(),
      signal,
    })
    this.#reconciler = new Reconciler({
      engineSocket: this.engine.socket,
      directory: join(this.data, 'core'),
      released: () => undefined,
      images,
      imagesInSlots: async () => new Set<string>(),
      memory: await CoreMemory.open(new NodeDisk(this.persist)),
      locks: this.locks,
      lockDirectory: this.lockDirectory,
      dataDirectory: this.data,
      settleMs: 700,
      log,
      onEngine: (engine) => this.onEngine(engine),
      onFile: async () => {},
      signal,
      onStep: (_, step) => {
        this.steps.push(step)
        this.onStep(step)
      },
    })
    this.#ended = this.#reconciler.run()
  }

  async stop(): Promise<void> {
    this.#stop.abort(new Error('stopping'))
    await this.#ended
  }

  container(name: string): ContainerStatus | undefined {
    return this.status.containers.find((one) => one.name === name)
  }

  /** Waits until a container stands as asked. @throws with the whole status when it does not in time */
  async until(name: string, isSo: (status: ContainerStatus) => boolean, timeoutMs = 30_000): Promise<ContainerStatus> {
    for (const deadline = performance.now() + timeoutMs; ; await pause(50)) {
      const found = this.container(name)
      if (found !== undefined && isSo(found)) return found
      if (performance.now() > deadline)
        throw new Error(
          `${name} does not come to stand as asked:\n${JSON.stringify(this.status, null, 1)}\n${this.steps.slice(-30).join('\n')}`,
        )
    }
  }

  /** Waits until everything is as the file says, and Docker agrees. */
  untilSettled(name: string, timeoutMs?: number): Promise<ContainerStatus> {
    return this.until(
      name,
      ({ state, steps, docker }) => state === 'as-wanted' && steps.length === 0 && docker !== 'absent',
      timeoutMs,
    )
  }

  async inspect(name: string) {
    return this.engine.docker.getContainer(name).inspect()
  }

  /** Every container that Docker has, with how it stands. */
  async all(): Promise<readonly { readonly name: string; readonly state: string; readonly id: string }[]> {
    const found = await this.engine.docker.listContainers({ all: true })
    return found.map(({ Names, State, Id }) => ({ name: Names[0]?.slice(1) ?? '', state: State, id: Id }))
  }
}
