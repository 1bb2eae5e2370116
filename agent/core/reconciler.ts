import { type FSWatcher, watch } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { FlotillaError, isFlotillaError, messageOf } from '../../protocol/errors.ts'
import type { EventLog } from '../control/event-log.ts'
import { type CoreFile, readCoreFile } from './core-files.ts'
import type { CoreMemory } from './core-memory.ts'
import { CONTAINER_LABEL, definitionOf } from './create-options.ts'
import { Engine } from './engine.ts'
import { executeCore, type Outcome } from './execute-core.ts'
import { growingPauseMs } from './growing-pause.ts'
import type { ImageKeeper } from './image-keeper.ts'
import { type FoundContainer, isRunning } from './inventory.ts'
import { type ContainerPlan, type CoreFacts, describeStep, planCore } from './plan-core.ts'
import type { UpdateLocks } from './update-locks.ts'

export type ReconcilerDeps = {
  readonly engineSocket: string
  /** `/mnt/persist/skiff/core`. */
  readonly directory: string
  /** The release's `skiff-core.yaml` on persist, undefined when it has none. */
  readonly released: () => string | undefined
  readonly images: ImageKeeper
  /** Digests of the images of every release in a slot: a device that goes back needs them again. */
  readonly imagesInSlots: () => Promise<ReadonlySet<string>>
  readonly memory: CoreMemory
  readonly locks: UpdateLocks
  readonly lockDirectory: string
  readonly dataDirectory: string
  readonly settleMs: number
  readonly log: EventLog
  /** An engine answers: what was left in the middle of something is put in order before anything is planned. */
  readonly onEngine: (engine: Engine) => Promise<void>
  /** Told after each round; users follow the file too. */
  readonly onFile: (file: CoreFile) => Promise<void>
  readonly signal: AbortSignal
  /** Calls back before each step; tests cut there. */
  readonly onStep?: (container: string, step: string) => void
}

/** One container as `flotilla core status` shows it. */
export type ContainerStatus = {
  readonly name: string
  readonly state: ContainerPlan['state']
  readonly reason: string
  /** What Docker says: `running`, `exited`; `absent` when there is none. */
  readonly docker: string
  readonly health: string
  readonly image: string
  readonly steps: readonly string[]
}

export type CoreStatus = {
  readonly file: string
  readonly warnings: readonly string[]
  /** What keeps everything back: a wrong file, an engine that does not answer; empty when nothing does. */
  readonly problem: string
  readonly code: string
  readonly containers: readonly ContainerStatus[]
}

const SLOW_MS = 60_000
const IMAGE_POLL_MS = 500
const DEBOUNCE_MS = 300
const BACKOFF = { firstMs: 1_000, mostMs: 60_000 } as const
/** A container that fails again and again is tried ever more rarely. */
const RETRY = { firstMs: 10_000, mostMs: 600_000 } as const
/** Plans that follow each other at once; more is a dispute with somebody else, and is left for the slow timer. */
const MAX_ROUNDS = 8

/** Keeps Docker as the file says: at start, when file or release change, when Docker reports something, and now and then. */
export class Reconciler {
  readonly #deps: ReconcilerDeps
  #engine: Engine | undefined
  #opening: Promise<Engine> | undefined
  #watching: AbortController | undefined
  #started = new Set<string>()
  readonly #retries = new Map<string, { failures: number; untilMs: number; reason: string }>()
  #wake: () => void = () => {}
  #isDirty = false
  readonly #suspended = new Map<string, { readonly why: string }>()
  #round: Promise<void> = Promise.resolve()
  #status: CoreStatus = { file: '', warnings: [], problem: '', code: '', containers: [] }
  #names: readonly string[] = []
  /** What was seen last: names that Docker has, and whether what leaves the file is removed. */
  #seen: { readonly present: ReadonlySet<string>; readonly prunes: boolean } = { present: new Set(), prunes: false }
  /** What was told last of the file, and of what keeps everything back: not again at every look. */
  #toldWarnings = ''
  #toldProblem = ''

  constructor(deps: ReconcilerDeps) {
    this.#deps = deps
  }

  get status(): CoreStatus {
    return this.#status
  }

  /** Why containers must not be stopped now, with their names: a reboot stops them too. */
  async holds(): Promise<ReadonlyMap<string, string>> {
    const running = this.#status.containers.filter(({ docker }) => docker === 'running').map(({ name }) => name)
    return this.#deps.locks.holds(running)
  }

  /** Whether a container that ran before does not on purpose: it left the file, and was stopped or removed for that. */
  isUnwanted(name: string): boolean {
    const found = this.#status.containers.find((one) => one.name === name)
    if (found !== undefined) return found.state === 'left-over'
    return this.#seen.prunes && !this.#seen.present.has(name)
  }

  /** Something may have changed. */
  poke(): void {
    this.#isDirty = true
    this.#wake()
  }

  /** Forgets that a replacement did not come up. @throws FlotillaError NOT_FOUND */
  async retry(name: string): Promise<void> {
    if (!this.#names.includes(name)) throw noSuch(name)
    this.#deps.memory.failed.delete(name)
    this.#retries.delete(name)
    this.#deps.images.retry()
    await this.#deps.memory.save()
    this.poke()
  }

  /** Takes over a container that somebody else made: it is replaced by the file's. @throws FlotillaError NOT_FOUND */
  async adopt(name: string): Promise<void> {
    const found = await (await this.#openEngine()).container(name)
    if (found === undefined || !this.#names.includes(name)) throw noSuch(name)
    this.#deps.memory.adopted.set(found.id, 'by hand')
    await this.#deps.memory.save()
    this.poke()
  }

  /** Runs until the signal aborts. Never throws: what fails is in the status, and tried again with growing pauses. */
  async run(): Promise<void> {
    const { signal, directory, log } = this.#deps
    const stopWatching = watchDirectory(directory, () => this.poke())
    let failures = 0
    while (!signal.aborted) {
      this.#isDirty = false
      let isDeaf = false
      try {
        await this.#reconcile()
        failures = 0
        this.#toldProblem = ''
      } catch (error) {
        if (signal.aborted) break
        failures += 1
        const code = isFlotillaError(error) ? error.code : 'UNEXPECTED'
        isDeaf = code === 'UNREACHABLE'
        if (isDeaf) this.#dropEngine()
        this.#status = { ...this.#status, problem: messageOf(error), code }
        if (this.#toldProblem !== messageOf(error))
          log.add(code === 'UNREACHABLE' ? 'warn' : 'error', 'core-failed', { code, error: messageOf(error) })
        this.#toldProblem = messageOf(error)
      }
      const pauseMs = failures > 0 ? growingPauseMs(failures, BACKOFF) : Math.min(SLOW_MS, this.#nextRetryMs())
      await this.#sleep(pauseMs, isDeaf)
    }
    stopWatching()
    this.#dropEngine()
  }

  /**
   * Leaves a container alone until the answer is called: something else stops, reads or replaces it. Resolves once no step on it is
   * under way.
   */
  async suspend(name: string, why: string): Promise<() => void> {
    const mark = { why }
    this.#suspended.set(name, mark)
    await this.#round
    return () => {
      if (this.#suspended.get(name) === mark) this.#suspended.delete(name)
      this.poke()
    }
  }

  /** The file as it is now. @throws FlotillaError BAD_CONFIG */
  file(): Promise<CoreFile> {
    return readCoreFile(this.#deps.directory, this.#deps.released())
  }

  /** The id of the image that a name in the file stands for; waits while it is being got. @returns undefined when it is not to be had */
  async imageFor(name: string, signal: AbortSignal): Promise<string | undefined> {
    const engine = await this.#openEngine()
    for (;;) {
      const fact = (await this.#deps.images.facts(engine, (await this.file()).core)).get(name)
      if (fact === undefined || 'id' in fact) return fact?.id ?? (await engine.image(name))?.id
      if (!this.#deps.images.isGetting(name)) return undefined
      await pause(IMAGE_POLL_MS, undefined, { signal })
    }
  }

  /** The plan as it is now, without doing anything. @throws FlotillaError UNREACHABLE, BAD_CONFIG */
  async plan(): Promise<CoreStatus> {
    const file = await this.file()
    const facts = await this.#observe(await this.#openEngine(), file)
    return { ...describe(file, planCore(facts), facts.containers), problem: '', code: '' }
  }

  async #reconcile(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#round = promise
    try {
      await this.#reconcileAll()
    } finally {
      resolve()
    }
  }

  async #reconcileAll(): Promise<void> {
    const { signal, log, memory } = this.#deps
    for (let round = 0; round < MAX_ROUNDS && !signal.aborted; round += 1) {
      const file = await this.file()
      this.#names = [...file.core.containers.keys()]
      await this.#deps.onFile(file)
      // A device without a file is left alone, and needs no engine.
      if (file.path === '') {
        this.#status = describe(file, [], [])
        return
      }
      const engine = await this.#openEngine()
      const facts = await this.#observe(engine, file)
      const plans = planCore(facts).map((plan) => this.#leftAlone(plan))
      this.#seen = { present: new Set(facts.containers.map(({ name }) => name)), prunes: file.core.prune }
      this.#status = describe(file, plans, facts.containers, this.#retries)
      this.#tellWarnings(file.warnings)
      const due = this.#due(plans, facts)
      if (due.every(({ steps }) => steps.length === 0)) return this.#collectGarbage(engine, facts)
      const { outcomes, lost } = await executeCore(due, {
        engine,
        target: file.core,
        images: facts.images,
        lockDirectory: this.#deps.lockDirectory,
        dataDirectory: this.#deps.dataDirectory,
        settleMs: this.#deps.settleMs,
        signal,
        onStep: (container, step) => {
          log.add('info', 'core-step', { container, step })
          this.#deps.onStep?.(container, step)
        },
        onStarted: (id) => this.#started.add(id),
        onStopped: (id) => this.#started.delete(id),
        planBack: async (name, broken, reason) => {
          memory.failed.set(name, { ...broken, reason })
          await memory.save()
          return planCore(await this.#observe(engine, file)).find((plan) => plan.name === name)
        },
        adopt: async (id, definition) => {
          memory.adopted.set(id, definition)
          await memory.save()
        },
      })
      for (const outcome of outcomes) await this.#judge(outcome, file)
      if (lost !== undefined) throw lost
    }
  }

  #leftAlone(plan: ContainerPlan): ContainerPlan {
    const suspended = this.#suspended.get(plan.name)
    return suspended === undefined ? plan : { name: plan.name, state: 'held', reason: suspended.why, steps: [] }
  }

  /** What is not on its pause, and whose dependencies run, or are about to. */
  #due(plans: readonly ContainerPlan[], { target, containers }: CoreFacts): readonly ContainerPlan[] {
    const due = new Map<string, ContainerPlan>()
    for (const plan of plans) {
      if (performance.now() < (this.#retries.get(plan.name)?.untilMs ?? 0)) continue
      const isUp = (other: string) =>
        containers.some((found) => found.name === other && isRunning(found)) ||
        plans.some(({ name, state }) => name === other && state === 'as-wanted') ||
        (due.get(other)?.steps.length ?? 0) > 0
      if ((target.containers.get(plan.name)?.dependsOn ?? []).every(isUp)) due.set(plan.name, plan)
    }
    return [...due.values()]
  }

  async #judge(outcome: Outcome, file: CoreFile): Promise<void> {
    const { memory, log } = this.#deps
    const { name } = outcome
    if (outcome.done) {
      this.#retries.delete(name)
      const spec = file.core.containers.get(name)
      const failed = memory.failed.get(name)
      if (failed === undefined || spec === undefined || failed.definition === definitionOf(spec)) return
      memory.failed.delete(name)
      return memory.save()
    }
    const { code, reason, broken } = outcome
    log.add('error', 'container-failed', { container: name, code, reason })
    if (broken !== undefined) return // noted when it went back
    const failures = (this.#retries.get(name)?.failures ?? 0) + 1
    this.#retries.set(name, { failures, untilMs: performance.now() + growingPauseMs(failures, RETRY), reason })
  }

  /** Containers that are gone need no memory, and images of releases that are gone no room. One that something uses stays. */
  async #collectGarbage(engine: Engine, { containers, images }: CoreFacts): Promise<void> {
    const { memory, imagesInSlots, log } = this.#deps
    const there = new Set(containers.map(({ id }) => id))
    const gone = [...memory.adopted.keys()].filter((id) => !there.has(id))
    for (const id of gone) memory.adopted.delete(id)
    const used = new Set([...images.values()].map((fact) => ('id' in fact ? fact.id : '')))
    for (const { imageId } of containers) used.add(imageId)
    const spare = [...memory.loaded].filter((digest) => !used.has(digest))
    const kept = spare.length === 0 ? new Set<string>() : await imagesInSlots()
    const unneeded = spare.filter((digest) => !kept.has(digest))
    for (const digest of unneeded) {
      if (!(await engine.removeImage(digest))) continue
      memory.loaded.delete(digest)
      log.add('info', 'image-removed', { image: digest })
    }
    if (gone.length > 0 || unneeded.length > 0) await memory.save()
  }

  async #observe(engine: Engine, { core }: CoreFile): Promise<CoreFacts> {
    const { images, memory, locks } = this.#deps
    const [containers, known] = await Promise.all([engine.containers(), images.facts(engine, core)])
    // One that Docker keeps running needs no first start from us.
    for (const found of containers) if (isRunning(found)) this.#started.add(found.id)
    const names = new Set([...core.containers.keys(), ...containers.map(({ labels }) => labels[CONTAINER_LABEL] ?? '')])
    return {
      target: core,
      containers,
      images: known,
      adopted: memory.adopted,
      holds: await locks.holds(names),
      failed: memory.failed,
      started: this.#started,
    }
  }

  #openEngine(): Promise<Engine> {
    if (this.#engine !== undefined) return Promise.resolve(this.#engine)
    this.#opening ??= this.#openAnew().finally(() => (this.#opening = undefined))
    return this.#opening
  }

  async #openAnew(): Promise<Engine> {
    const engine = await Engine.open(this.#deps.engineSocket)
    await this.#deps.onEngine(engine)
    this.#engine = engine
    // What ran before the engine went away is started again, as at a boot.
    this.#started = new Set()
    const watching = new AbortController()
    this.#watching = watching
    void engine
      .watch(() => this.poke(), AbortSignal.any([watching.signal, this.#deps.signal]))
      .catch(() => {})
      .then(() => {
        if (this.#engine !== engine) return
        this.#dropEngine()
        this.poke()
      })
    return engine
  }

  #dropEngine(): void {
    this.#engine = undefined
    this.#watching?.abort()
  }

  /** Until something changes or the time is over. @param isDeaf - only the time counts: nothing that a dead engine says makes it busy */
  async #sleep(ms: number, isDeaf: boolean): Promise<void> {
    const { signal } = this.#deps
    if (signal.aborted) return
    // What comes in bursts, such as Docker's reports of one change, is looked at once.
    if (this.#isDirty && !isDeaf) return this.#wait(DEBOUNCE_MS, false)
    await this.#wait(ms, !isDeaf)
    if (this.#isDirty && !isDeaf) await this.#wait(DEBOUNCE_MS, false)
  }

  #wait(ms: number, wakes: boolean): Promise<void> {
    const { signal } = this.#deps
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', done)
        this.#wake = () => {}
        resolve()
      }
      const timer = setTimeout(done, ms)
      signal.addEventListener('abort', done)
      if (wakes) this.#wake = done
    })
  }

  #nextRetryMs(): number {
    return Math.max(
      1_000,
      Math.min(...[...this.#retries.values()].map(({ untilMs }) => untilMs - performance.now()), SLOW_MS),
    )
  }

  #tellWarnings(warnings: readonly string[]): void {
    const all = warnings.join('\n')
    if (all !== this.#toldWarnings)
      for (const warning of warnings) this.#deps.log.add('warn', 'core-warning', { warning })
    this.#toldWarnings = all
  }
}

function noSuch(name: string): FlotillaError {
  return new FlotillaError('NOT_FOUND', `container ${name}: no such container in the file, or none in Docker`)
}

function describe(
  file: CoreFile,
  plans: readonly ContainerPlan[],
  containers: readonly FoundContainer[],
  retries: ReadonlyMap<string, { readonly reason: string; readonly untilMs: number }> = new Map(),
): CoreStatus {
  return {
    file: file.path,
    warnings: file.warnings,
    problem: '',
    code: '',
    containers: plans.map(({ name, state, reason, steps }) => {
      const found = containers.find((one) => one.name === name)
      const retry = retries.get(name)
      const failed = retry !== undefined && steps.length > 0
      return {
        name,
        state: failed ? 'failed' : state,
        reason: failed ? retry.reason : reason,
        docker: found?.status ?? 'absent',
        health: found?.health ?? 'none',
        image: file.core.containers.get(name)?.image ?? found?.image ?? '',
        steps: steps.map(describeStep),
      }
    }),
  }
}

/** Watching is a comfort: without it the slow timer sees the change. */
function watchDirectory(directory: string, onChange: () => void): () => void {
  let watcher: FSWatcher | undefined
  try {
    watcher = watch(directory, onChange)
    watcher.on('error', () => watcher?.close())
  } catch {
    // no inotify here
  }
  return () => watcher?.close()
}
