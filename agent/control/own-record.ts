import { type DeviceRecord, parseRecord, type SignedRecord, signRecord } from '../../protocol/gossip/device-record.ts'
import type { Disk } from '../store/disk.ts'
import { GenerationFile } from '../store/generation-file.ts'

const MIN_INTERVAL_MS = 500
const HEARTBEAT_MS = 45_000
/** Sequence numbers of one run of the agent; the run number is kept on disk, so numbers rise over restarts. */
const PER_RUN = 2 ** 24
/** Above it the product is no longer exact. */
const MAX_RUN = 2 ** 28

/** Signs this device's own record anew when it changed, and from time to time so that others see it alive. */
export class OwnRecord {
  readonly #build: () => Omit<DeviceRecord, 'seq'>
  readonly #certificate: Uint8Array
  readonly #sign: (message: Uint8Array) => Uint8Array
  #run: number
  #count = 0
  #last = ''
  #lastMs = -Infinity

  private constructor(
    run: number,
    build: () => Omit<DeviceRecord, 'seq'>,
    certificate: Uint8Array,
    sign: (message: Uint8Array) => Uint8Array,
  ) {
    this.#run = run
    this.#build = build
    this.#certificate = certificate
    this.#sign = sign
  }

  /** Takes the next run number, durably, before anything is signed with it. */
  static async open(
    persist: Disk,
    build: () => Omit<DeviceRecord, 'seq'>,
    certificate: Uint8Array,
    sign: (message: Uint8Array) => Uint8Array,
  ): Promise<OwnRecord> {
    const file = new GenerationFile(persist, 'update/run', 32)
    const read = Number(Buffer.from((await file.read()) ?? new Uint8Array()).toString())
    const run = Number.isSafeInteger(read) && read >= 0 && read < MAX_RUN ? read : 0
    await file.write(Buffer.from(String(run + 1)))
    return new OwnRecord(run + 1, build, certificate, sign)
  }

  /** A new record when there is something to say now, else undefined. */
  next(nowMs: number): SignedRecord | undefined {
    if (nowMs - this.#lastMs < MIN_INTERVAL_MS) return undefined
    const fields = this.#build()
    const text = JSON.stringify(fields)
    if (text === this.#last && nowMs - this.#lastMs < HEARTBEAT_MS) return undefined
    this.#last = text
    this.#lastMs = nowMs
    this.#count += 1
    return parseRecord(signRecord({ ...fields, seq: this.#run * PER_RUN + this.#count }, this.#certificate, this.#sign))
  }
}
