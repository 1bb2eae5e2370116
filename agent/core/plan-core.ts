import type { ContainerSpec } from '../../protocol/core/container-spec.ts'
import type { SkiffCore } from '../../protocol/core/skiff-core.ts'
import { CONTAINER_LABEL, type CarriedVolume, DEFINITION_LABEL, definitionOf } from './create-options.ts'
import { type FoundContainer, isMadeFrom, isRunning } from './inventory.ts'

/** One step on the way to what the file says. `at` is Docker's name of the container that it is about. */
export type CoreStep =
  | { readonly do: 'create'; readonly at: string; readonly carried: readonly CarriedVolume[] }
  | { readonly do: 'stop'; readonly at: string }
  | { readonly do: 'set-policy'; readonly at: string; readonly policy: string }
  | { readonly do: 'rename'; readonly at: string; readonly to: string }
  | { readonly do: 'start'; readonly at: string; readonly replaces: boolean }
  | { readonly do: 'await-healthy'; readonly at: string; readonly replaces: boolean }
  | { readonly do: 'remove'; readonly at: string }
  | { readonly do: 'adopt'; readonly at: string; readonly id: string }

/** How a container stands, before the steps. */
export type ContainerState = 'as-wanted' | 'changing' | 'waiting' | 'held' | 'failed' | 'left-over'

/** What is to be done about one container, and why. */
export type ContainerPlan = {
  readonly name: string
  readonly state: ContainerState
  /** For a person; empty when there is nothing to say. */
  readonly reason: string
  readonly steps: readonly CoreStep[]
}

/** A container's image: its id when it is here, else why it is not. */
export type ImageFact = { readonly id: string } | { readonly waiting: string }

/** A replacement that did not come up: the container before runs again, and the same is not tried twice. */
export type FailedDefinition = { readonly definition: string; readonly imageId: string; readonly reason: string }

export type CoreFacts = {
  readonly target: SkiffCore
  readonly containers: readonly FoundContainer[]
  /** By name as the file writes it. */
  readonly images: ReadonlyMap<string, ImageFact>
  /** Containers that SkiffOS's program made and this device took over: the definition of each, by container id. */
  readonly adopted: ReadonlyMap<string, string>
  /** Why a container must not be stopped now, by name. */
  readonly holds: ReadonlyMap<string, string>
  readonly failed: ReadonlyMap<string, FailedDefinition>
  /** Ids of the containers that were started since the engine came up: one that ended since is not started again. */
  readonly started: ReadonlySet<string>
}

export const NEXT = '.flotilla-next'
export const PREVIOUS = '.flotilla-previous'

/**
 * Compares what Docker has with what the file says. Pure. In the order of `dependsOn`.
 *
 * A container that changed is made anew beside the old one, which is stopped and kept under another name until the new one is healthy.
 * After a cut between any two steps the next plan goes on or goes back, and never do two of a container run.
 */
export function planCore(facts: CoreFacts): readonly ContainerPlan[] {
  const ours = facts.containers.filter((found) => nameOf(found, facts.adopted) !== undefined)
  const wanted = inOrder(facts.target.containers).map(([name, spec]) => planContainer(name, spec, facts))
  const others = new Set(ours.map((found) => nameOf(found, facts.adopted) ?? ''))
  for (const name of facts.target.containers.keys()) others.delete(name)
  return [...wanted, ...[...others].sort().map((name) => planLeftOver(name, ours, facts))]
}

type Family = { readonly [role in 'current' | 'next' | 'previous']: FoundContainer | undefined }

function familyOf(name: string, containers: readonly FoundContainer[]): Family {
  const at = (suffix: string) => containers.find((found) => found.name === `${name}${suffix}`)
  return { current: at(''), next: at(NEXT), previous: at(PREVIOUS) }
}

/** The container of the file that this one stands for, undefined for a stranger's. */
function nameOf(found: FoundContainer, adopted: CoreFacts['adopted']): string | undefined {
  return found.labels[CONTAINER_LABEL] ?? (adopted.has(found.id) ? baseOf(found.name) : undefined)
}

function baseOf(name: string): string {
  for (const suffix of [NEXT, PREVIOUS]) if (name.endsWith(suffix)) return name.slice(0, -suffix.length)
  return name
}

function planContainer(name: string, spec: ContainerSpec, facts: CoreFacts): ContainerPlan {
  const family = familyOf(name, facts.containers)
  const { current, next, previous } = family
  const plan = (state: ContainerState, reason: string, steps: readonly CoreStep[] = []): ContainerPlan => ({
    name,
    state,
    reason,
    steps,
  })
  if (current !== undefined && nameOf(current, facts.adopted) !== name) {
    if (isMadeFrom(current, spec))
      return plan('changing', 'made by SkiffOS as the file says', [{ do: 'adopt', at: name, id: current.id }])
    return plan(
      'failed',
      `containers.${name}: a container that Flotilla did not make has that name; rename it (docker rename ${name} …), or \`flotilla core adopt ${name}\` to have it replaced`,
    )
  }
  const image = facts.images.get(spec.image) ?? { waiting: 'not looked for yet' }
  const definition = definitionOf(spec)
  const isWanted = (found: FoundContainer | undefined) =>
    found !== undefined &&
    'id' in image &&
    found.imageId === image.id &&
    (found.labels[DEFINITION_LABEL] ?? facts.adopted.get(found.id)) === definition
  const failed = facts.failed.get(name)
  const hasFailed =
    failed !== undefined && failed.definition === definition && 'id' in image && failed.imageId === image.id

  if (previous !== undefined) {
    const runs = spec.startAfterCreate || ranUntilReplaced(previous, current ?? next)
    if (isWanted(current) && !hasFailed) return plan('changing', 'taking over', takeOver(name, runs, family))
    if (current === undefined && isWanted(next) && !hasFailed)
      return plan('changing', 'going on where it was cut off', [
        ...(isRunning(previous) ? [{ do: 'stop', at: previous.name } as const] : []),
        { do: 'rename', at: `${name}${NEXT}`, to: name },
        ...takeOver(name, runs, family),
      ])
    return plan('changing', 'going back to the container before', goBack(name, runs, spec.restartPolicy, family))
  }
  const clean: readonly CoreStep[] = next === undefined ? [] : [{ do: 'remove', at: next.name }]
  const isDue = spec.startAfterCreate && current !== undefined && !isRunning(current) && !facts.started.has(current.id)
  // The one that is there goes on: as it should be, or while the new one cannot be.
  const old: readonly CoreStep[] = [
    ...clean,
    ...policySteps(current, name, spec.restartPolicy),
    ...(isDue ? up(name, false) : []),
  ]
  if ('waiting' in image) return plan('waiting', `image ${spec.image}: ${image.waiting}`, old)
  if (current === undefined)
    return plan('changing', 'not there yet', [
      ...clean,
      // Not under its name before it is whole, networks included.
      { do: 'create', at: `${name}${NEXT}`, carried: [] },
      { do: 'rename', at: `${name}${NEXT}`, to: name },
      ...(spec.startAfterCreate ? up(name, false) : []),
    ])
  if (isWanted(current)) return isDue ? plan('changing', 'not running', old) : plan('as-wanted', '', old)
  if (hasFailed)
    return plan('failed', `${failed.reason}; the container before runs on (\`flotilla core retry ${name}\`)`, old)
  const why = current.imageId === image.id ? 'its definition changed' : 'its image changed'
  const hold = facts.holds.get(name)
  if (hold !== undefined && isRunning(current)) return plan('held', `${why}; held: ${hold}`, old)
  return plan('changing', why, [...clean, ...replace(name, spec, current)])
}

function replace(name: string, spec: ContainerSpec, current: FoundContainer): readonly CoreStep[] {
  const runs = spec.startAfterCreate || isRunning(current)
  return [
    { do: 'create', at: `${name}${NEXT}`, carried: current.volumes.filter(isNameless) },
    // Or an engine that comes up again would start the old one beside the new one.
    ...policySteps(current, name, 'no'),
    ...(isRunning(current) ? [{ do: 'stop', at: name } as const] : []),
    { do: 'rename', at: name, to: `${name}${PREVIOUS}` },
    { do: 'rename', at: `${name}${NEXT}`, to: name },
    ...(runs ? up(name, true) : []),
    { do: 'remove', at: `${name}${PREVIOUS}` },
  ]
}

/** A volume that the image asked for, named by Docker itself. One that the file names goes with the file. */
export function isNameless({ volume }: CarriedVolume): boolean {
  return /^[0-9a-f]{64}$/.test(volume)
}

function policySteps(found: FoundContainer | undefined, at: string, policy: string): readonly CoreStep[] {
  return found === undefined || found.restartPolicy === policy ? [] : [{ do: 'set-policy', at, policy }]
}

function up(name: string, replaces: boolean): readonly CoreStep[] {
  return [
    { do: 'start', at: name, replaces },
    { do: 'await-healthy', at: name, replaces },
  ]
}

function takeOver(name: string, runs: boolean, { previous, next, current }: Family): readonly CoreStep[] {
  return [
    ...(previous !== undefined && isRunning(previous) ? [{ do: 'stop', at: previous.name } as const] : []),
    ...(runs ? up(name, true) : []),
    ...(previous === undefined ? [] : [{ do: 'remove', at: previous.name } as const]),
    ...(next === undefined || current === undefined ? [] : [{ do: 'remove', at: next.name } as const]),
  ]
}

function goBack(name: string, runs: boolean, policy: string, { current, next, previous }: Family): readonly CoreStep[] {
  return [
    ...(current !== undefined && isRunning(current) ? [{ do: 'stop', at: name } as const] : []),
    ...(current === undefined ? [] : [{ do: 'remove', at: name } as const]),
    ...(next === undefined ? [] : [{ do: 'remove', at: next.name } as const]),
    { do: 'rename', at: `${name}${PREVIOUS}`, to: name },
    ...policySteps(previous, name, policy),
    ...(runs && previous !== undefined && !isRunning(previous)
      ? [{ do: 'start', at: name, replaces: false } as const]
      : []),
  ]
}

/** It was stopped for the newer one, not before by somebody else. */
function ranUntilReplaced(previous: FoundContainer, newer: FoundContainer | undefined): boolean {
  return isRunning(previous) || (newer !== undefined && previous.finishedMs >= newer.createdMs)
}

/** Taken out of the file: stopped, and kept unless the file says `prune: true`. Volumes stay in either case. */
function planLeftOver(name: string, ours: readonly FoundContainer[], facts: CoreFacts): ContainerPlan {
  const { current, next, previous } = familyOf(name, ours)
  const found = [current, previous].filter((one) => one !== undefined)
  const hold = facts.holds.get(name)
  if (hold !== undefined && found.some(isRunning))
    return { name, state: 'held', reason: `not in the file; held: ${hold}`, steps: [] }
  const steps: readonly CoreStep[] = [
    ...(next === undefined ? [] : [{ do: 'remove', at: next.name } as const]),
    ...found.flatMap((one) => policySteps(one, one.name, 'no')),
    ...found.filter(isRunning).map(({ name: at }) => ({ do: 'stop', at }) as const),
    ...(facts.target.prune ? found.map(({ name: at }) => ({ do: 'remove', at }) as const) : []),
  ]
  return { name, state: 'left-over', reason: 'not in the file', steps }
}

/** Every container after those that it depends on; the parser refuses circles. Pure. */
function inOrder(containers: ReadonlyMap<string, ContainerSpec>): readonly (readonly [string, ContainerSpec])[] {
  const ordered = new Map<string, ContainerSpec>()
  const add = (name: string) => {
    const spec = containers.get(name)
    if (spec === undefined || ordered.has(name)) return
    for (const other of spec.dependsOn) add(other)
    ordered.set(name, spec)
  }
  for (const name of containers.keys()) add(name)
  return [...ordered]
}

/** A step in words, for `flotilla core plan` and the log. */
export function describeStep(step: CoreStep): string {
  switch (step.do) {
    case 'create':
      return `create ${step.at}${step.carried.length === 0 ? '' : ` with the volumes ${step.carried.map(({ target }) => target).join(', ')}`}`
    case 'rename':
      return `rename ${step.at} to ${step.to}`
    case 'set-policy':
      return `set the restart policy of ${step.at} to ${step.policy}`
    case 'await-healthy':
      return `wait until ${step.at} is healthy`
    case 'adopt':
      return `take over ${step.at} as it is`
    default:
      return `${step.do} ${step.at}`
  }
}
