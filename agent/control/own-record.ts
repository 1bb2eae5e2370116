import { type DeviceRecord, parseRecord, type SignedRecord, signRecord } from '../../protocol/gossip/device-record.ts'
import type { Disk } from '../store/disk.ts'
import { GenerationFile } from '../store/generation-file.ts'

const MIN_INTERVAL_MS = 500
/** While an update is under way, others wait for this one's word. */
const BUSY_MS = 45_000
/**
 * At rest: 3 minutes, in larger fleets more rarely, since what all say each hears; never so rarely that who looks for holders
 * (a quarter of an hour) overlooks it, as long as the fleet has fewer than 200 devices.
 */
const REST = { leastMs: 180_000, perDeviceMs: 10_000, mostMs: 600_000, perDeviceOfManyMs: 3_000 } as const
/** Sequence numbers of one run of the agent; the run number is kept on disk, so numbers rise over restarts. */
const PER_RUN = 2 ** 24
/** Above it the product is no longer exact. */
const MAX_RUN = 2 ** 28

/** Signs this device's own record anew when it changed, and from time to time so that others see it alive. */
export class OwnRecord {
  readonly #build: () => Omit<DeviceRecord, 'seq'>
  readonly #certificate: Uint8Array
  readonly #sign: (message: Uint8Array) => Uint8Array
  readonly #file: GenerationFile
  readonly #random: () => number
  #run: number
  #count = 0
  #restored = false
  #last = ''
  #lastMs = -Infinity
  /** Devices that were switched on together do not speak together for ever. */
  #jitter = 1

  private constructor(
    file: GenerationFile,
    random: () => number,
    run: number,
    build: () => Omit<DeviceRecord, 'seq'>,
    certificate: Uint8Array,
    sign: (message: Uint8Array) => Uint8Array,
  ) {
    this.#file = file
    this.#random = random
    this.#run = run
    this.#build = build
    this.#certificate = certificate
    this.#sign = sign
  }

  /**
   * Takes the next run number, durably, before anything is signed with it.
   * @param onFailure - it could not be kept: the device is heard all the same, once it has gone on above its own old record
   */
  static async open(
    persist: Disk,
    build: () => Omit<DeviceRecord, 'seq'>,
    certificate: Uint8Array,
    sign: (message: Uint8Array) => Uint8Array,
    onFailure: (error: unknown) => void,
    random: () => number = Math.random,
  ): Promise<OwnRecord> {
    const file = new GenerationFile(persist, 'update/run', 32)
    const read = Number(Buffer.from((await file.read()) ?? new Uint8Array()).toString())
    const run = Number.isSafeInteger(read) && read >= 0 && read < MAX_RUN ? read : 0
    await file.write(Buffer.from(String(run + 1))).catch(onFailure)
    return new OwnRecord(file, random, run + 1, build, certificate, sign)
  }

  /**
   * Somebody holds a record of this device under the given sequence. Above what was signed here, either the disk was set
   * back (a restored backup): then this device goes on above it, or nobody would believe it any more; or, when that
   * happens again, the device's key is in use elsewhere.
   */
  async heard(seq: number): Promise<'known' | 'restored' | 'elsewhere'> {
    if (seq <= this.#run * PER_RUN + this.#count) return 'known'
    if (this.#restored) return 'elsewhere'
    this.#restored = true
    this.#run = Math.min(MAX_RUN - 1, Math.floor(seq / PER_RUN)) + 1
    this.#count = 0
    this.#last = ''
    await this.#file.write(Buffer.from(String(this.#run)))
    return 'restored'
  }

  /**
   * A new record when there is something to say now, else undefined.
   * @param fleetSize - devices known
   */
  next(nowMs: number, fleetSize = 1): SignedRecord | undefined {
    if (nowMs - this.#lastMs < MIN_INTERVAL_MS) return undefined
    const fields = this.#build()
    const text = JSON.stringify(fields)
    const isBusy = fields.next !== undefined || fields.wishes !== undefined
    const heartbeatMs = this.#jitter * (isBusy ? BUSY_MS : restMs(fleetSize))
    if (text === this.#last && nowMs - this.#lastMs < heartbeatMs) return undefined
    this.#last = text
    this.#lastMs = nowMs
    this.#jitter = 0.75 + this.#random() / 2
    this.#count += 1
    return parseRecord(signRecord({ ...fields, seq: this.#run * PER_RUN + this.#count }, this.#certificate, this.#sign))
  }
}

function restMs(fleetSize: number): number {
  const grown = Math.min(REST.mostMs, Math.max(REST.leastMs, fleetSize * REST.perDeviceMs))
  return Math.max(grown, fleetSize * REST.perDeviceOfManyMs)
}
