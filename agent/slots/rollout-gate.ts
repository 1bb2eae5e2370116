import { type RecordBook } from '../../protocol/gossip/record-book.ts'
import type { Release } from '../../protocol/release/description.ts'
import { judgeFailures, judgeLease, judgeWave, type RolloutPeer } from '../../protocol/rollout/judge-rollout.ts'
import { parseJson, shape } from '../../protocol/shape.ts'
import type { GateVerdict } from '../control/reboot-gate.ts'
import type { Disk } from '../store/disk.ts'
import { GenerationFile } from '../store/generation-file.ts'

const SAVE_MS = 60_000
/** A longer pause between two looks is a machine that was asleep: it does not count as waiting. */
const MAX_STEP_MS = 5_000
/** Boot, firmware and file system checks of one try, besides the health deadline. */
const BOOT_MS = 180_000

/** Who asks: what the rollout rules need to know of this device. */
export type RolloutDevice = {
  readonly id: string
  readonly board: string
  readonly channel: string
  readonly labels: Readonly<Record<string, string>>
}

/**
 * The fleet's part in the decision to reboot: waves, failures elsewhere, reboot leases. Judges by the records heard;
 * remembers over restarts for how long a release has been waiting, so that patience is counted in time switched on.
 */
export class RolloutGate {
  readonly #book: RecordBook
  readonly #device: RolloutDevice
  readonly #file: GenerationFile
  #waiting: { readonly id: string; readonly ms: number }
  #savedMs: number
  #lookedMs = 0
  #wish: { readonly id: string; readonly sinceMs: number } | undefined

  private constructor(
    book: RecordBook,
    device: RolloutDevice,
    file: GenerationFile,
    waiting: { id: string; ms: number },
  ) {
    this.#book = book
    this.#device = device
    this.#file = file
    this.#waiting = waiting
    this.#savedMs = waiting.ms
  }

  static async open(book: RecordBook, device: RolloutDevice, persist: Disk): Promise<RolloutGate> {
    const file = new GenerationFile(persist, 'update/waited', 256)
    const bytes = await file.read()
    const json = bytes === undefined ? {} : shape.object(parseJson(bytes, 'waited', 256), 'waited')
    const waiting =
      json['id'] === undefined
        ? { id: '', ms: 0 }
        : { id: shape.hex32(json['id'], 'waited.id'), ms: shape.integer(json['ms'], 'waited.ms', 0) }
    return new RolloutGate(book, device, file, waiting)
  }

  /** The release this device would reboot for if its cell let it; goes into its record. */
  get wishes(): string | undefined {
    return this.#wish?.id
  }

  /** Counts the time that a ready release waits; call often. A loss of up to a minute by a power cut is harmless. */
  async wait(releaseId: string, nowMs: number): Promise<void> {
    const step = Math.min(MAX_STEP_MS, Math.max(0, nowMs - this.#lookedMs))
    this.#lookedMs = nowMs
    if (this.#waiting.id !== releaseId) {
      this.#waiting = { id: releaseId, ms: 0 }
      this.#savedMs = 0
    } else this.#waiting = { id: releaseId, ms: this.#waiting.ms + step }
    if (this.#waiting.ms - this.#savedMs < SAVE_MS) return
    this.#savedMs = this.#waiting.ms
    await this.#file.write(Buffer.from(JSON.stringify({ id: releaseId, ms: Math.round(this.#waiting.ms) })))
  }

  /** Whether the fleet lets this device boot the release now; wishes aloud once only the cell is in the way. */
  judge(release: Release, openWaves: number, nowMs: number): GateVerdict {
    const { rollout: plan, era, seq, health } = release.description
    const question = { release: { id: release.id, plan, era, seq }, device: this.#device }
    const wave = judgeWave({ ...question, peers: this.#kin(nowMs), waitedMs: this.#waiting.ms, openWaves })
    if (!wave.open) {
      this.withdraw()
      return wave
    }
    if (this.#wish?.id !== release.id) this.#wish = { id: release.id, sinceMs: nowMs }
    return judgeLease({
      ...question,
      peers: this.#peers(nowMs),
      wishedMs: nowMs - this.#wish.sinceMs,
      leaseMs: health.tries * (health.deadlineSeconds * 1_000 + BOOT_MS),
    })
  }

  /** The robot is in the way, or nothing is ready: others need not wait for this device. */
  withdraw(): void {
    this.#wish = undefined
  }

  /** Why the release has to be halted by what happened elsewhere, or undefined. */
  failures(release: Release, nowMs: number): string | undefined {
    return judgeFailures({ id: release.id, plan: release.description.rollout }, this.#kin(nowMs))
  }

  /** Devices of this board and channel: only they boot the same releases. */
  #kin(nowMs: number): readonly RolloutPeer[] {
    return this.#peers(nowMs, (board, channel) => board === this.#device.board && channel === this.#device.channel)
  }

  #peers(nowMs: number, filter: (board: string, channel: string) => boolean = () => true): readonly RolloutPeer[] {
    return this.#book.all(nowMs).flatMap(({ signed: { record }, ageMs }) => {
      if (record.device === this.#device.id || record.state === 'operator') return []
      if (!filter(record.board, record.channel)) return []
      return [
        {
          device: record.device,
          labels: record.labels,
          running: record.running,
          soaked: record.running?.soaked === true,
          failedId: record.failed?.id,
          rebooting: record.state === 'armed' || record.state === 'trial',
          wishes: record.wishes,
          ageMs,
        },
      ]
    })
  }
}
