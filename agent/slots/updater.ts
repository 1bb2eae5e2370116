import type { ChunkIndex } from '../../protocol/chunks/chunk-index.ts'
import { FlotillaError, isFlotillaError, messageOf } from '../../protocol/errors.ts'
import { MAX_DESCRIPTION_BYTES, parseRelease, type Release, shortId } from '../../protocol/release/description.ts'
import type { SignedPointer } from '../../protocol/release/find-release.ts'
import { type DeviceFacts, judgeInstall, raiseFloor } from '../../protocol/release/judge-install.ts'
import type { TrustedSet } from '../../protocol/trust/trusted-set.ts'
import type { EventLog } from '../control/event-log.ts'
import type { GateVerdict } from '../control/reboot-gate.ts'
import { type Baseline, type HealthVerdict, judgeHealth } from '../health/judge-health.ts'
import type { CheckResult } from '../health/run-checks.ts'
import type { ArtifactStore } from '../store/artifact-store.ts'
import type { Disk } from '../store/disk.ts'
import type { ReleaseFetcher } from '../store/release-fetcher.ts'
import type { BootControl } from './bootloaders/boot-control.ts'
import type { BootFamily } from '../../protocol/boot/slot-files.ts'
import { placeOf } from '../../protocol/boot/slot-layout.ts'
import { chooseRollback } from './choose-rollback.ts'
import type { RolloutGate } from './rollout-gate.ts'
import { SignedReleases } from './signed-releases.ts'
import { describeTrial } from './describe-trial.ts'
import { SlotKeeper } from './slot-keeper.ts'
import { stepUpdate, type UpdateEffect, type UpdateInput, type UpdateState } from './update-machine.ts'
import type { UpdateJournal } from './update-journal.ts'
import { type ChunkSource, readSlots, writeRelease } from './write-release.ts'

export type UpdaterDeps = {
  readonly boot: Disk
  readonly persist: Disk
  readonly store: ArtifactStore
  readonly fetcher: ReleaseFetcher
  readonly control: BootControl
  readonly journal: UpdateJournal
  readonly family: BootFamily
  readonly trialBootSeconds: number
  /** @throws FlotillaError DISK_FAILED when the boot area should not be written to */
  readonly requireSoundBoot: () => Promise<void>
  readonly chunks: ChunkSource
  readonly log: EventLog
  readonly device: {
    readonly board: string
    readonly channel: string
    readonly hardware: string
    readonly keepReleases: number
  }
  readonly trusted: () => TrustedSet
  readonly gate: () => Promise<GateVerdict>
  /** Everybody lets it reboot into this release: what is to be done before, such as backups. */
  readonly prepare: (id: string) => Promise<GateVerdict>
  readonly rollout: RolloutGate
  readonly baseline: () => Promise<Baseline>
  /** Runs all checks once; on trial only. */
  readonly check: (before: Baseline) => Promise<readonly CheckResult[]>
  readonly onReboot: (why: string) => void
  /** The running release is proven: what would reset the device otherwise may end. */
  readonly onProven: () => Promise<void>
  /** A slot's files were removed: they are no longer offered. */
  readonly onForgotten: (artifact: string) => void
  /** Bytes that came from peers since the agent started. */
  readonly fetchedBytes: () => number
  readonly sleep: (ms: number, signal: AbortSignal) => Promise<void>
}

const RETRY_MS = 10_000
const CHECK_PAUSE_MS = 1_000

/**
 * Runs the update machine on a device: saves every state before its effects, writes slots, arms, judges, cleans up.
 * All decisions are in `stepUpdate`; this class only does what it says.
 */
export class Updater {
  readonly #deps: UpdaterDeps
  readonly #slots: SlotKeeper
  readonly #signed: SignedReleases
  readonly #stop = new AbortController()
  #state: UpdateState
  #before: Baseline
  #job: { readonly id: string; readonly abort: AbortController } | undefined
  #queue: Promise<void> = Promise.resolve()
  #waitingFor = ''
  #conflict = ''
  #ticking = false
  #armAfterMs = 0
  #provenSinceMs = Infinity
  /** The release that waits for its reboot. */
  #waiting: Release | undefined
  /** Why the running release was recalled, while the device still runs it. */
  #recalled: string | undefined
  #writing: readonly { readonly index: string; readonly path: string; readonly lengthBytes: number }[] = []
  running: Release | undefined

  private constructor(deps: UpdaterDeps, state: UpdateState, before: Baseline) {
    this.#deps = deps
    this.#slots = new SlotKeeper({
      ...deps,
      keepReleases: deps.device.keepReleases,
      describe: (id) => deps.fetcher.description(pointerTo(id)),
    })
    this.#signed = new SignedReleases(deps.trusted, deps.device.board, deps.device.channel)
    this.#state = state
    this.#before = before
  }

  /** Reads the journal and the slot that really booted. */
  static async load(deps: UpdaterDeps): Promise<Updater> {
    const entry = await deps.journal.load()
    const updater = new Updater(deps, entry.state, entry.baseline)
    const slot = (await readSlots(deps.boot)).find((found) => found.slot === deps.control.current())
    updater.running = slot?.release === undefined ? undefined : parseRelease(slot.release)
    return updater
  }

  get state(): UpdateState {
    return this.#state
  }

  /** Every release that stands in a slot and can be read. */
  async releasesInSlots(): Promise<readonly Release[]> {
    return (await this.#slots.slots(this.#state)).flatMap(({ release }) => release ?? [])
  }

  /** Why a written release is not booted yet; empty when nothing waits. */
  get waitingFor(): string {
    return this.#waitingFor
  }

  /** The release this device would reboot for if its cell let it. */
  get wishes(): string | undefined {
    return this.#deps.rollout.wishes
  }

  /** The release that is signed for this device and not here whole: it may not even have the description yet. */
  wanted(): string | undefined {
    if (this.#state.phase === 'fetching') return this.#state.target?.id
    if (this.#state.phase !== 'idle') return undefined
    const newest = this.#signed.newest()
    const isKnown =
      newest === this.running?.id || [...this.#state.failed, ...this.#state.halted].some(({ id }) => id === newest)
    return isKnown ? undefined : newest
  }

  /** Whether the running release has been proven for as long as it asks for itself, since the agent started. */
  soaked(): boolean {
    const soakMs = (this.running?.description.rollout.soakSeconds ?? Infinity) * 1_000
    return performance.now() - this.#provenSinceMs >= soakMs
  }

  /** How much of the release being fetched is here, 0 … 100; 100 when it waits or is on trial. */
  percent(): number {
    if (this.#state.phase !== 'fetching') return this.#state.target === undefined ? 0 : 100
    let total = 0
    let here = 0
    for (const { index, path, lengthBytes } of this.#writing) {
      const file = this.#deps.store.files(index).find((held) => held.path === path)
      total += lengthBytes
      if (file !== undefined) here += lengthBytes * (file.have.count / Math.max(1, file.have.size))
    }
    return total === 0 ? 0 : Math.floor((here * 100) / total)
  }

  /** Tells the machine which slot booted; call once, when everything else is up. */
  async start(): Promise<void> {
    const target = this.#state.target
    const { control, boot } = this.#deps
    const trace = target === undefined ? '' : await describeTrial(boot, control, this.#state, shortId(target.id))
    await this.#input({
      type: 'started',
      slot: control.current(),
      good: await control.good(),
      remaining: target === undefined ? undefined : await control.remaining(shortId(target.id)),
      counted: await control.counterMoves(),
      oneShot: control.oneShot,
      trace,
    })
    if (this.#state.phase !== 'trial') this.#provenSinceMs = performance.now()
    if (this.#state.phase !== 'idle') return
    await this.#deps.onProven()
    await control.settle()
    await this.#slots.collectGarbage(this.#state)
  }

  async stop(): Promise<void> {
    this.#stop.abort(new Error('stopping'))
    this.#job?.abort.abort(new Error('stopping'))
    await this.#queue
  }

  /** Looks at what is signed for this device; fetches what is newer, drops what was withdrawn. Safe to call at any time. */
  async consider(): Promise<void> {
    const pointers = this.#signed.pointers()
    for (const { sha256, halted } of pointers)
      if (halted !== undefined) await this.#input({ type: 'halt', id: sha256, reason: halted.reason })
    this.#recalled = pointers.find(
      ({ sha256, halted }) => halted?.recall === true && sha256 === this.running?.id,
    )?.halted?.reason
    const { phase, target } = this.#state
    if ((phase === 'fetching' || phase === 'written') && this.#signed.stillHolds(target?.id) === 'no') {
      await this.#input({ type: 'abandon', reason: 'no longer signed for this device' })
    }
    // The newest first; where it asks for a stepping stone, that one comes first.
    for (const pointer of pointers) {
      if (pointer.sha256 === this.running?.id) return
      if (pointer.halted !== undefined) continue
      const release = await this.#deps.fetcher.description(pointer)
      if (release === undefined) return
      const failures = this.#deps.rollout.failures(release, performance.now())
      if (failures !== undefined) await this.#input({ type: 'halt', id: release.id, reason: failures })
      if (release.id === this.#state.target?.id) return
      if (this.#mayInstall(release)) return void (await this.#input(toCandidate(release)))
    }
  }

  #mayInstall(release: Release): boolean {
    const { era } = this.#signed
    if (release.description.era === era) {
      const verdict = judgeInstall(release.id, release.description, this.#facts())
      if (!verdict.install && verdict.reason === 'SAME_SEQUENCE') this.#tellConflict(release)
      return verdict.install
    }
    const reason = `era ${release.description.era}, signed era is ${era}`
    this.#deps.log.add('warn', 'refused', { release: release.id, reason })
    return false
  }

  #tellConflict({ id, description: { version, seq } }: Release): void {
    if (this.#conflict === id) return
    this.#conflict = id
    this.#deps.log.add('error', 'release-conflict', {
      code: 'SAME_SEQUENCE',
      release: id,
      version,
      seq,
      running: this.running?.id ?? '',
      next: 'two releases are signed under one sequence; publish the right one again under a higher one',
    })
  }

  #facts(): DeviceFacts {
    const running = this.running?.description
    return {
      ...this.#deps.device,
      floor: this.#state.floor,
      // A running release that cannot be read refuses everything below the floor, and nothing is below nothing.
      running: running === undefined ? this.#state.floor : { era: running.era, seq: running.seq },
      runningId: this.running?.id ?? '',
      bad: [...this.#state.failed, ...this.#state.halted].map(({ id }) => id),
      dataVersion: this.#state.dataVersion,
    }
  }

  /** Reboots into a written release when the robot allows it; call from time to time. */
  async tick(): Promise<void> {
    if (this.#ticking) return
    this.#ticking = true
    try {
      await this.#tryReboot()
    } finally {
      this.#ticking = false
    }
  }

  async #tryReboot(): Promise<void> {
    if (this.#state.phase === 'idle' && this.#recalled !== undefined) return this.#goBack(this.#recalled)
    if (this.#state.phase !== 'written' || performance.now() < this.#armAfterMs) return this.#deps.rollout.withdraw()
    const gate = await this.#judgeGates()
    this.#waitingFor = gate.open ? '' : gate.reason
    if (!gate.open || this.#signed.stillHolds(this.#state.target?.id) !== 'yes') return
    const before = await this.#deps.baseline()
    // The probe may have taken seconds; a robot that began to work meanwhile must not be rebooted.
    if (!(await this.#judgeGates()).open) return
    this.#before = before
    await this.#input({ type: 'may-reboot' })
  }

  /** The robot first, then the fleet. */
  async #judgeGates(): Promise<GateVerdict> {
    const { rollout, fetcher, gate } = this.#deps
    const id = this.#state.target?.id ?? ''
    await rollout.wait(id, performance.now())
    const robot = await gate()
    if (!robot.open) {
      rollout.withdraw()
      return robot
    }
    // Asked twice a second, perhaps for days: read from disk once.
    if (this.#waiting?.id !== id) this.#waiting = await fetcher.description(pointerTo(id))
    const release = this.#waiting
    if (release === undefined) rollout.withdraw()
    if (release === undefined) return { open: false, reason: 'the description of the release is missing' }
    const fleet = rollout.judge(release, this.#signed.openWaves(id), performance.now())
    return fleet.open ? this.#deps.prepare(id) : fleet
  }

  async #goBack(reason: string): Promise<void> {
    const gate = await this.#deps.gate()
    try {
      if (gate.open) await this.rollback(`recalled: ${reason}`)
      this.#waitingFor = gate.open ? '' : gate.reason
    } catch (error) {
      this.#waitingFor = `recalled (${reason}), but ${messageOf(error)}`
    }
  }

  /** Sends the device back to the newest other proven release. @throws FlotillaError NOT_FOUND, ON_TRIAL */
  async rollback(reason: string): Promise<string> {
    if (this.#state.phase === 'armed')
      throw new FlotillaError('ON_TRIAL', 'roll back: a release is armed; wait for its trial')
    const current = this.#deps.control.current()
    const { floor, dataVersion } = this.#state
    const other = chooseRollback(await this.#slots.slots(this.#state), current, floor, dataVersion)
    if ('reason' in other) throw new FlotillaError('NOT_FOUND', `roll back: ${other.reason}`)
    if (this.running === undefined)
      throw new FlotillaError('NOT_FOUND', 'roll back: the release that runs cannot be read')
    await this.#input({
      type: 'rollback',
      running: { id: this.running.id, version: this.running.description.version },
      to: other.slot,
      reason,
    })
    return other.slot
  }

  /** Steps one after another: state saved first, then the effects. @returns false when it could not be done */
  #input(input: UpdateInput): Promise<boolean> {
    const run = this.#queue
      .then(() => this.#step(input))
      .then(
        () => true,
        (error: unknown) => {
          const code = isFlotillaError(error) ? error.code : 'UNEXPECTED'
          this.#waitingFor = messageOf(error)
          this.#deps.log.add('error', 'update-step-failed', { input: input.type, error: messageOf(error), code })
          return false
        },
      )
    this.#queue = run.then(() => {})
    return run
  }

  async #step(input: UpdateInput): Promise<void> {
    const { state, effects } = stepUpdate(this.#state, input)
    if (state !== this.#state) await this.#deps.journal.save({ state, baseline: this.#before })
    this.#state = state
    for (const effect of effects) await this.#run(effect)
  }

  async #run(effect: UpdateEffect): Promise<void> {
    switch (effect.type) {
      case 'fetch':
        this.#startJob(effect.id)
        break
      case 'arm':
        await this.#arm(effect.slot, effect.tries)
        break
      case 'mark-good':
        await this.#deps.control.markGood(effect.slot)
        break
      case 'then':
        await this.#step(effect.input)
        if (effect.input.type === 'confirmed') {
          this.#provenSinceMs = performance.now()
          await this.#deps.onProven()
        }
        await this.#slots.collectGarbage(this.#state)
        break
      case 'mark-bad':
        this.#job?.abort.abort(new Error('no longer wanted'))
        await this.#deps.control.markBad(effect.slot)
        break
      case 'reboot':
        this.#deps.onReboot(effect.why)
        break
      case 'judge-health':
        void this.#judge()
        break
      case 'tell':
        this.#deps.log.add(effect.event === 'fell-back' ? 'error' : 'info', effect.event, {
          release: effect.id,
          reason: effect.reason,
        })
        break
    }
  }

  async #arm(slot: string, tries: number): Promise<void> {
    try {
      await this.#deps.control.arm(slot, tries)
    } catch (error) {
      // Back to `written`: the slot is whole, only the loader cannot be trusted yet.
      this.#state = { ...this.#state, phase: 'written', transitions: this.#state.transitions - 1 }
      this.#armAfterMs = performance.now() + RETRY_MS
      await this.#deps.journal.save({ state: this.#state, baseline: this.#before })
      throw error
    }
  }

  #startJob(id: string): void {
    this.#job?.abort.abort(new Error('superseded'))
    this.#writing = [] // what was written for an earlier release says nothing about this one
    const abort = new AbortController()
    this.#job = { id, abort }
    void this.#work(id, AbortSignal.any([abort.signal, this.#stop.signal]))
  }

  async #work(id: string, signal: AbortSignal): Promise<void> {
    let told = '' // a failure is told once for each release, however often it is tried
    while (!signal.aborted) {
      try {
        const release = await this.#deps.fetcher.description(pointerTo(id))
        const indexes = release === undefined ? undefined : await this.#deps.fetcher.indexes(release)
        if (release !== undefined && indexes !== undefined) {
          await this.#write(release, indexes, signal)
          await this.#input({ type: 'written', id })
          return
        }
        await this.#deps.sleep(1_000, signal)
      } catch (error) {
        if (signal.aborted) return
        const code = isFlotillaError(error) ? error.code : 'UNEXPECTED'
        const why = messageOf(error)
        if (told !== why) this.#deps.log.add('error', 'write-failed', { release: id, code, error: why })
        told = why
        this.#waitingFor = why
        await this.#deps.sleep(RETRY_MS, signal).catch(() => {})
      }
    }
  }

  async #write(release: Release, indexes: ReadonlyMap<string, ChunkIndex>, signal: AbortSignal): Promise<void> {
    await this.#deps.requireSoundBoot()
    await this.#deps.control.requireCounting()
    await this.#slots.collectGarbage(this.#state)
    this.#writing = release.description.artifacts.map((artifact) => ({
      index: artifact.index.sha256,
      path: placeOf(release.id, artifact).path,
      lengthBytes: artifact.lengthBytes,
    }))
    const deps = {
      ...this.#deps,
      onStep: (step: { type: string }) => this.#deps.log.add('debug', 'slot-step', { step: step.type }),
    }
    const before = this.#deps.fetchedBytes()
    await writeRelease(release, indexes, deps, signal)
    this.#deps.log.add('info', 'fetched', {
      release: release.id,
      version: release.description.version,
      bytes: this.#deps.fetchedBytes() - before,
    })
    for (const artifact of release.description.artifacts) {
      const place = placeOf(release.id, artifact)
      const file = this.#deps.store.files(artifact.index.sha256).find((held) => held.path === place.path)
      const index = indexes.get(artifact.index.sha256)
      if (file === undefined || index === undefined) continue
      await this.#deps.store.seal(file)
      signal.throwIfAborted() // superseded meanwhile: its files may be gone
      this.#deps.chunks.offer(index, this.#deps.store.holds(index))
    }
    this.#waitingFor = ''
  }

  async #judge(): Promise<void> {
    const description = this.running?.description
    const deadlineMs = (description?.health.deadlineSeconds ?? 60) * 1_000
    const startedMs = performance.now()
    while (!this.#stop.signal.aborted) {
      const results = await this.#deps.check(this.#before)
      const verdict: HealthVerdict = judgeHealth(results, performance.now() - startedMs, deadlineMs)
      if (verdict.verdict === 'healthy' && description !== undefined) {
        for (const warning of verdict.warnings) this.#deps.log.add('warn', 'check-failed', { check: warning })
        // A disk that is full just now must not leave a good release without its verdict.
        const proven = {
          floor: raiseFloor(this.#state.floor, description),
          dataVersion: Math.max(this.#state.dataVersion, description.data.writes),
        }
        if (await this.#input({ type: 'healthy', proven })) return
      }
      if (verdict.verdict === 'unhealthy') {
        await this.#input({ type: 'unhealthy', reason: verdict.reason, log: verdict.log })
        return
      }
      await this.#deps.sleep(CHECK_PAUSE_MS, this.#stop.signal).catch(() => {})
    }
  }
}

/** A release whose description was already matched with signed metadata. */
function pointerTo(id: string): SignedPointer {
  return { role: '', path: '', sha256: id, lengthBytes: MAX_DESCRIPTION_BYTES }
}

function toCandidate({ id, description: { version, era, seq, health } }: Release): UpdateInput {
  return { type: 'candidate', release: { id, version, era, seq, tries: health.tries } }
}
