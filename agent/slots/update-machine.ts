import { shortId } from '../../protocol/release/description.ts'
import { compareSequence, type Sequence } from '../../protocol/release/judge-install.ts'

/** A release as the machine knows it. */
export type Candidate = Sequence & { readonly id: string; readonly version: string; readonly tries: number }
/** A release that must not be booted here any more, whoever offers it. */
export type HaltedRelease = { readonly id: string; readonly reason: string }
export type FailedRelease = {
  readonly id: string
  readonly version: string
  readonly reason: string
  readonly log: string
}

/** Where an update stands. Kept on disk; every transition survives a power cut on either side of it. */
export type UpdateState = {
  readonly phase: 'idle' | 'fetching' | 'written' | 'armed' | 'trial'
  readonly target: Candidate | undefined
  /** Releases that failed on this device: never tried again. Newest last. */
  readonly failed: readonly FailedRelease[]
  /** Releases that were halted, by their signers or by their failures: never tried again. Newest last. */
  readonly halted: readonly HaltedRelease[]
  /** Lowest sequence that may still be installed. */
  readonly floor: Sequence
  /** The newest data format that a proven release here has written. */
  readonly dataVersion: number
  /** Phases entered since the last proven release: a loop of any kind ends here. */
  readonly transitions: number
  /** How the last update ended here. */
  readonly outcome: 'none' | 'proven' | 'fell-back'
  /** The slot that a person sent the device back to, until it has booted. */
  readonly rollbackTo: string | undefined
}

/** What changes for good once a release is proven. */
export type ProvenFacts = { readonly floor: Sequence; readonly dataVersion: number }

export type UpdateInput =
  /** The newest release that is for this device. */
  | { readonly type: 'candidate'; readonly release: Candidate }
  /** Every artifact was written, flushed, read back and matched. */
  | { readonly type: 'written'; readonly id: string }
  /** The robot and the calendar allow a reboot now. */
  | { readonly type: 'may-reboot' }
  /**
   * The agent started. `slot` really booted, `good` is what boots without a trial; `remaining` are the tries the boot
   * record has left for the target; `counted` is false while the loader has not run since the target was armed; `oneShot`
   * when each try has to be asked for; `trace` says how far the last trial came, empty when that is not known.
   */
  | {
      readonly type: 'started'
      readonly slot: string
      readonly good: string
      readonly remaining: number | undefined
      readonly counted: boolean
      readonly oneShot: boolean
      readonly trace: string
    }
  | { readonly type: 'healthy'; readonly proven: ProvenFacts }
  /** The boot record says that the target is good. */
  | { readonly type: 'confirmed'; readonly proven: ProvenFacts }
  | { readonly type: 'unhealthy'; readonly reason: string; readonly log: string }
  | { readonly type: 'abandon'; readonly reason: string }
  /** The signers, or too many failures on other devices, stop a release. */
  | { readonly type: 'halt'; readonly id: string; readonly reason: string }
  /** A person sends the device back from the release that runs. */
  | {
      readonly type: 'rollback'
      readonly running: { readonly id: string; readonly version: string }
      readonly to: string
      readonly reason: string
    }

export type UpdateEffect =
  | { readonly type: 'fetch'; readonly id: string }
  | { readonly type: 'arm'; readonly slot: string; readonly tries: number }
  | { readonly type: 'mark-good'; readonly slot: string }
  | { readonly type: 'mark-bad'; readonly slot: string }
  | { readonly type: 'reboot'; readonly why: string }
  | { readonly type: 'judge-health'; readonly id: string }
  /** Feed this input in once the effects before it are on the medium. */
  | { readonly type: 'then'; readonly input: UpdateInput }
  | { readonly type: 'tell'; readonly event: string; readonly id: string; readonly reason: string }

export const IDLE: UpdateState = {
  phase: 'idle',
  target: undefined,
  failed: [],
  halted: [],
  floor: { era: 0, seq: 0 },
  dataVersion: 0,
  transitions: 0,
  outcome: 'none',
  rollbackTo: undefined,
}

const MAX_FAILED = 32
/** Mender's lesson: more transitions than any sound update needs is a loop (facts/ota-systems.md A3). */
const MAX_TRANSITIONS = 40
/** A loader that does not count after so many reboots cannot write its record: it must not be tried for ever. */
const MAX_UNCOUNTED = 8

/**
 * One step of an update. Pure: the same state and input give the same state and effects. The caller saves the state
 * before it runs the effects; an effect that was cut off is asked for again by `started`.
 * @see protocol/spec/slots.md, "States"
 */
export function stepUpdate(
  state: UpdateState,
  input: UpdateInput,
): { readonly state: UpdateState; readonly effects: readonly UpdateEffect[] } {
  switch (input.type) {
    case 'candidate':
      return candidate(state, input.release)
    case 'written':
      if (state.phase !== 'fetching' || state.target?.id !== input.id) return same(state)
      return { state: enter(state, 'written'), effects: [tell('written', input.id, '')] }
    case 'may-reboot':
      return mayReboot(state)
    case 'started':
      return started(state, input)
    case 'healthy':
      if (state.phase !== 'trial' || state.target === undefined) return same(state)
      // The record first, the state after it: a cut between them only repeats the trial of a slot that is good.
      return {
        state,
        effects: [
          { type: 'mark-good', slot: shortId(state.target.id) },
          { type: 'then', input: { type: 'confirmed', proven: input.proven } },
        ],
      }
    case 'confirmed':
      if (state.phase !== 'trial' || state.target === undefined) return same(state)
      return {
        state: { ...state, ...input.proven, phase: 'idle', target: undefined, transitions: 0, outcome: 'proven' },
        effects: [tell('proven', state.target.id, '')],
      }
    case 'unhealthy':
      if (state.phase !== 'trial' || state.target === undefined) return same(state)
      return fail(state, state.target, input.reason, input.log, true)
    case 'abandon':
      if (state.target === undefined || state.phase === 'trial') return same(state)
      return {
        state: { ...state, phase: 'idle', target: undefined },
        effects: [
          { type: 'mark-bad', slot: shortId(state.target.id) },
          tell('abandoned', state.target.id, input.reason),
        ],
      }
    case 'halt':
      return halt(state, input.id, input.reason)
    case 'rollback': {
      const { running, to, reason } = input
      const failed = addFailed({ ...state, phase: 'idle', target: undefined }, { ...running, reason, log: '' })
      return {
        state: { ...failed, rollbackTo: to },
        effects: [...goBack(shortId(running.id), to, 'rollback by hand'), tell('rolled-back', running.id, reason)],
      }
    }
  }
}

function goBack(from: string, to: string, why: string): readonly UpdateEffect[] {
  return [
    { type: 'mark-bad', slot: from },
    { type: 'mark-good', slot: to },
    { type: 'reboot', why },
  ]
}

type Step = ReturnType<typeof stepUpdate>

function same(state: UpdateState): Step {
  return { state, effects: [] }
}

function tell(event: string, id: string, reason: string): UpdateEffect {
  return { type: 'tell', event, id, reason }
}

function enter(state: UpdateState, phase: UpdateState['phase']): UpdateState {
  return { ...state, phase, transitions: state.transitions + 1 }
}

function addFailed(state: UpdateState, failed: FailedRelease): UpdateState {
  return {
    ...state,
    outcome: 'fell-back',
    failed: [...state.failed.filter((other) => other.id !== failed.id), failed].slice(-MAX_FAILED),
  }
}

/**
 * Whatever is staged of a halted release is disarmed, a trial of it ends. What is proven stays: going back from that is
 * a rollback of its own. The memory of it outlives a restart, so that lifting a halt does not bring the release back.
 */
function halt(before: UpdateState, id: string, reason: string): Step {
  if (before.halted.some((halted) => halted.id === id)) return same(before)
  const state = { ...before, halted: [...before.halted, { id, reason }].slice(-MAX_FAILED) }
  if (state.target?.id !== id) return { state, effects: [tell('halted', id, reason)] }
  if (state.phase === 'trial') {
    const failed = fail(state, state.target, `halted: ${reason}`, '', true)
    return { state: failed.state, effects: [tell('halted', id, reason), ...failed.effects] }
  }
  return {
    state: { ...state, phase: 'idle', target: undefined },
    effects: [{ type: 'mark-bad', slot: shortId(id) }, tell('halted', id, reason)],
  }
}

function candidate(state: UpdateState, release: Candidate): Step {
  const stopped = [...state.failed, ...state.halted].some((other) => other.id === release.id)
  if (stopped || compareSequence(release, state.floor) < 0) return same(state)
  // One at a time: what is armed or on trial is judged first.
  if (state.phase === 'armed' || state.phase === 'trial') return same(state)
  if (state.target !== undefined && compareSequence(release, state.target) <= 0) return same(state)
  if (state.target?.id === release.id) return same(state)
  const replaced = state.target === undefined ? [] : [tell('superseded', state.target.id, `by ${release.version}`)]
  return {
    state: { ...state, phase: 'fetching', target: release, transitions: 1 },
    effects: [...replaced, { type: 'fetch', id: release.id }],
  }
}

function mayReboot(state: UpdateState): Step {
  if (state.phase !== 'written' || state.target === undefined) return same(state)
  if (state.transitions > MAX_TRANSITIONS) {
    return fail(state, state.target, `gave up after ${state.transitions} steps without an end`, '', false)
  }
  return {
    state: enter(state, 'armed'),
    effects: [
      { type: 'arm', slot: shortId(state.target.id), tries: state.target.tries },
      tell('armed', state.target.id, ''),
      { type: 'reboot', why: `try ${state.target.version}` },
    ],
  }
}

function started(before: UpdateState, input: Extract<UpdateInput, { type: 'started' }>): Step {
  const { slot, good, remaining, counted, oneShot, trace } = input
  if (before.rollbackTo !== undefined && before.rollbackTo !== slot) {
    return { state: before, effects: goBack(slot, before.rollbackTo, 'rollback by hand, cut off before') }
  }
  const state = before.rollbackTo === undefined ? before : { ...before, rollbackTo: undefined }
  // Killed between "it failed" and "the record is cleared": finish that. A failed slot that is also the good one (both
  // records were lost) is all there is to boot: stay.
  const failedHere = state.failed.find((failed) => shortId(failed.id) === slot)
  if (failedHere !== undefined && slot !== good) {
    return {
      state,
      effects: [
        { type: 'mark-bad', slot },
        { type: 'reboot', why: `${failedHere.version} failed before` },
      ],
    }
  }
  const target = state.target
  if (target === undefined) return same(state)
  if (shortId(target.id) === slot) {
    if (state.transitions > MAX_TRANSITIONS) return fail(state, target, 'tried too often without a verdict', '', true)
    return {
      state: enter(state, 'trial'),
      effects: [tell('trial', target.id, ''), { type: 'judge-health', id: target.id }],
    }
  }
  switch (state.phase) {
    case 'idle':
      return same(state)
    case 'fetching':
      return { state, effects: [{ type: 'fetch', id: target.id }] }
    case 'written':
    case 'armed':
      // Never armed (killed before) or the record is gone: write-check it again and go on.
      if (remaining === undefined)
        return { state: enter(state, 'fetching'), effects: [{ type: 'fetch', id: target.id }] }
      // Only the agent was restarted: the loader has not even tried yet.
      if (oneShot && remaining > 0) return tryAgain(state, target)
      if (!oneShot && !counted && state.transitions <= MAX_UNCOUNTED) {
        return { state: enter(state, 'armed'), effects: [{ type: 'reboot', why: `try ${target.version}` }] }
      }
      return fell(state, target, remaining, trace)
    case 'trial':
      if (oneShot && remaining !== undefined && remaining > 0) return tryAgain(state, target)
      return fell(state, target, remaining ?? 0, trace)
  }
}

/** A try ended, however it did; the next one has to be asked for. */
function tryAgain(state: UpdateState, target: Candidate): Step {
  if (state.transitions > MAX_TRANSITIONS) return fail(state, target, 'tried too often without a verdict', '', false)
  return { state: enter(state, 'armed'), effects: [{ type: 'reboot', why: `try ${target.version} again` }] }
}

function fell(state: UpdateState, target: Candidate, remaining: number, trace: string): Step {
  const what =
    remaining > 0
      ? 'the loader went back to the old release with tries left: it could not start the new one'
      : `no trial boot was confirmed (${target.tries} tried): kernel, init or agent did not come up`
  const reason = trace === '' ? what : `${what}; ${trace}`
  return fail(state, target, reason, '', false)
}

function fail(state: UpdateState, target: Candidate, reason: string, log: string, reboot: boolean): Step {
  return {
    state: addFailed(
      { ...state, phase: 'idle', target: undefined },
      { id: target.id, version: target.version, reason, log },
    ),
    effects: [
      { type: 'mark-bad', slot: shortId(target.id) },
      tell('fell-back', target.id, reason),
      ...(reboot ? [{ type: 'reboot', why: `fall back from ${target.version}` } as const] : []),
    ],
  }
}
