import { lstat, mkdir } from 'node:fs/promises'
import { setTimeout as pause } from 'node:timers/promises'
import type { ContainerSpec, HealthCheckSpec } from '../../protocol/core/container-spec.ts'
import type { SkiffCore } from '../../protocol/core/skiff-core.ts'
import { FlotillaError, isFlotillaError, messageOf } from '../../protocol/errors.ts'
import { type CarriedVolume, CONTAINER_LABEL, createOptions, definitionOf } from './create-options.ts'
import type { Engine } from './engine.ts'
import { type FoundContainer, isRunning } from './inventory.ts'
import { type ContainerPlan, type CoreStep, describeStep, type ImageFact } from './plan-core.ts'

export type ExecuteDeps = {
  readonly engine: Engine
  readonly target: SkiffCore
  readonly images: ReadonlyMap<string, ImageFact>
  readonly lockDirectory: string
  /** Sources of mounts below it are made; what is missing elsewhere is a mistake. */
  readonly dataDirectory: string
  /** How long a container without a health check runs before it counts as up. */
  readonly settleMs: number
  readonly signal: AbortSignal
  readonly onStep: (container: string, step: string) => void
  /** It came up; if it ends later, that is its own affair, and its restart policy's. */
  readonly onStarted: (id: string) => void
  /** It was stopped by us: unless something takes its place, it is to run again. */
  readonly onStopped: (id: string) => void
  /** The way back for a container whose new form did not come up; it does not wait for the other containers. */
  readonly planBack: (name: string, broken: Broken, reason: string) => Promise<ContainerPlan | undefined>
  readonly adopt: (id: string, definition: string) => Promise<void>
}

/** How one container's steps ended. */
export type Outcome =
  | { readonly name: string; readonly done: true }
  | {
      readonly name: string
      readonly done: false
      readonly code: string
      readonly reason: string
      /** The new container did not come up: the same is not tried again. */
      readonly broken: Broken | undefined
    }

/** What a container was made from that did not come up. */
export type Broken = { readonly definition: string; readonly imageId: string }

/** Without a health check a container counts as up when it has run for so long without a restart. */
export const SETTLE_MS = 3_000
const POLL_MS = 250
const HEALTH_MARGIN_MS = 30_000

/**
 * Does what was planned, containers beside each other, each after those that it depends on. A failure ends the steps of its own
 * container; what waits for it is left for the next plan.
 * @returns how each ended, and why those did not that have no verdict: the engine went away, or the agent ends
 */
export async function executeCore(
  plans: readonly ContainerPlan[],
  deps: ExecuteDeps,
): Promise<{ readonly outcomes: readonly Outcome[]; readonly lost: unknown }> {
  const running = new Map<string, Promise<Outcome>>()
  const runPlan = async (plan: ContainerPlan): Promise<Outcome> => {
    for (const other of deps.target.containers.get(plan.name)?.dependsOn ?? []) {
      const before = await running.get(other)
      if (before === undefined || before.done) continue
      return { name: plan.name, done: false, code: 'BUSY', reason: `waits for ${other}`, broken: undefined }
    }
    return executePlan(plan, deps)
  }
  for (const plan of plans) if (plan.steps.length > 0) running.set(plan.name, runPlan(plan))
  const outcomes = await Promise.allSettled(running.values())
  return {
    outcomes: outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : [])),
    lost: outcomes.find((outcome) => outcome.status === 'rejected')?.reason,
  }
}

async function executePlan({ name, steps }: ContainerPlan, deps: ExecuteDeps): Promise<Outcome> {
  for (const step of steps) {
    deps.signal.throwIfAborted()
    deps.onStep(name, describeStep(step))
    try {
      await executeStep(name, step, deps)
    } catch (error) {
      // The engine went away, or the agent ends: no verdict on the container.
      if (deps.signal.aborted || isFlotillaError(error, 'UNREACHABLE')) throw error
      const spec = deps.target.containers.get(name)
      const image = spec && deps.images.get(spec.image)
      const replaces = 'replaces' in step && step.replaces && spec !== undefined && image !== undefined && 'id' in image
      const broken = replaces ? { definition: definitionOf(spec), imageId: image.id } : undefined
      if (broken !== undefined) await goBack(name, broken, messageOf(error), deps)
      return {
        name,
        done: false,
        code: isFlotillaError(error) ? error.code : 'UNEXPECTED',
        reason: messageOf(error),
        broken,
      }
    }
  }
  return { name, done: true }
}

/** At once: the other containers may take minutes. What fails here, the next plan does. */
async function goBack(name: string, broken: Broken, reason: string, deps: ExecuteDeps): Promise<void> {
  const plan = await deps.planBack(name, broken, reason)
  try {
    for (const step of plan?.steps ?? []) {
      deps.onStep(name, describeStep(step))
      await executeStep(name, step, deps)
    }
  } catch (error) {
    if (deps.signal.aborted || isFlotillaError(error, 'UNREACHABLE')) throw error
  }
}

async function executeStep(name: string, step: CoreStep, deps: ExecuteDeps): Promise<void> {
  const { engine, target } = deps
  const spec = target.containers.get(name)
  switch (step.do) {
    case 'create':
      return create(name, step, requireSpec(name, spec), deps)
    case 'stop': {
      const found = await engine.container(step.at)
      if (found === undefined) return
      await engine.stop(step.at, found.stopSeconds)
      return deps.onStopped(found.id)
    }
    case 'set-policy':
      return engine.setRestartPolicy(step.at, step.policy)
    case 'rename':
      return engine.rename(step.at, step.to)
    case 'start':
      return engine.start(step.at, name)
    case 'await-healthy':
      await awaitHealthy(name, step.at, requireSpec(name, spec), deps)
      return deps.onStarted((await requireContainer(engine, step.at)).id)
    case 'remove':
      return engine.remove(step.at)
    case 'adopt':
      return deps.adopt(step.id, definitionOf(requireSpec(name, spec)))
  }
}

function requireSpec(name: string, spec: ContainerSpec | undefined): ContainerSpec {
  if (spec === undefined) throw new FlotillaError('NOT_FOUND', `container ${name}: it is not in the file any more`)
  return spec
}

async function requireContainer(engine: Engine, at: string): Promise<FoundContainer> {
  const found = await engine.container(at)
  if (found === undefined) throw new FlotillaError('NOT_FOUND', `container ${at}: it was removed by somebody else`)
  return found
}

async function create(
  name: string,
  { at, carried }: Extract<CoreStep, { do: 'create' }>,
  spec: ContainerSpec,
  deps: ExecuteDeps,
): Promise<void> {
  await requireSources(name, spec, deps.dataDirectory)
  const image = deps.images.get(spec.image)
  // By id: a tag may move between the plan and now.
  const made = image !== undefined && 'id' in image ? image.id : spec.image
  await createContainer({ name, at, spec, image: made, carried }, deps)
}

export type ContainerToCreate = {
  /** Its name in the file. */
  readonly name: string
  /** Docker's name of it. */
  readonly at: string
  readonly spec: ContainerSpec
  /** Id or name of the image. */
  readonly image: string
  readonly carried: readonly CarriedVolume[]
}

/** Makes a container and what it needs, its networks among it. @returns its id */
export async function createContainer(
  { name, at, spec, image, carried }: ContainerToCreate,
  { engine, lockDirectory }: Pick<ExecuteDeps, 'engine' | 'lockDirectory'>,
): Promise<string> {
  if (spec.updateLock !== undefined) await mkdir(`${lockDirectory}/${name}`, { recursive: true })
  const networks = spec.hostNetwork ? [] : spec.networks
  for (const network of networks) await engine.requireNetwork(network, { [CONTAINER_LABEL]: '' })
  const hasTini = await exists('/usr/bin/tini')
  const options = createOptions(name, spec, { carried, lockDirectory, hasTini })
  const id = await engine.create(at, { ...options, Image: image }, name)
  for (const network of networks.slice(1)) await engine.connect(network, at)
  return id
}

/** Docker makes a directory of whatever it is told to mount and does not find, also of a device that is not plugged in. */
async function requireSources(name: string, spec: ContainerSpec, dataDirectory: string): Promise<void> {
  for (const [at, mount] of spec.mounts.entries()) {
    const [source = ''] = mount.split(':')
    if (!source.startsWith('/') || (await exists(source))) continue
    if (!source.startsWith(`${dataDirectory}/`))
      throw new FlotillaError(
        'BAD_CONFIG',
        `create ${name}: containers.${name}.mounts[${at}]: ${source} is not there; make it, or correct the path (what lies below ${dataDirectory} is made)`,
      )
    await mkdir(source, { recursive: true })
  }
  for (const [at, device] of spec.devices.entries()) {
    const [source = ''] = device.split(':')
    if (!(await exists(source)))
      throw new FlotillaError(
        'BAD_CONFIG',
        `create ${name}: containers.${name}.devices[${at}]: ${source} is not there; connect it, or take it out of the list`,
      )
  }
}

async function exists(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  )
}

/** @throws FlotillaError BAD_CONFIG when it does not come up, with its last words */
async function awaitHealthy(name: string, at: string, spec: ContainerSpec, deps: ExecuteDeps): Promise<void> {
  const { engine, signal, settleMs } = deps
  const started = performance.now()
  const first = (await requireContainer(engine, at)).restarts
  for (;;) {
    const found = await requireContainer(engine, at)
    const elapsedMs = performance.now() - started
    const verdict = judgeUp(found, first, { elapsedMs, settleMs }, spec)
    if (verdict === 'up') return
    if (verdict !== 'wait') {
      const words = await engine.lastWords(at)
      throw new FlotillaError('BAD_CONFIG', `start ${name}: ${verdict}${words === '' ? '' : `; it said: ${words}`}`)
    }
    await pause(POLL_MS, undefined, { signal })
  }
}

/**
 * Whether a container that was started is up. Pure. One that ends with code 0 and is not to be restarted did what it is for.
 * @returns `up`, `wait`, or what is wrong
 */
function judgeUp(
  found: FoundContainer,
  restartsBefore: number,
  { elapsedMs, settleMs }: { readonly elapsedMs: number; readonly settleMs: number },
  spec: ContainerSpec,
): string {
  if (!isRunning(found)) {
    if (found.exitCode === 0 && found.problem === '' && spec.restartPolicy !== 'always') return 'up'
    return `it ended with exit code ${found.exitCode}${found.problem === '' ? '' : ` (${found.problem})`}`
  }
  if (found.restarts > restartsBefore) return `it ended and was restarted ${found.restarts - restartsBefore} times`
  if (found.health === 'healthy') return 'up'
  if (found.health === 'unhealthy') return 'its health check fails'
  if (found.health === 'starting') {
    const limitMs = healthLimitMs(spec.healthCheck)
    return elapsedMs < limitMs ? 'wait' : `it is not healthy after ${Math.round(limitMs / 1_000)} s`
  }
  return elapsedMs < settleMs || found.status === 'restarting' ? 'wait' : 'up'
}

/** When Docker itself must have given up; a check that the image brings is given five minutes. */
function healthLimitMs(check: HealthCheckSpec | undefined): number {
  if (check === undefined) return 300_000
  const seconds = check.startSeconds + (check.intervalSeconds + check.timeoutSeconds) * (check.retries + 1)
  return seconds * 1_000 + HEALTH_MARGIN_MS
}
