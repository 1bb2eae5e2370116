import {
  BOOT_RECORD_PATHS,
  type BootRecord,
  chooseBoot,
  freshRecord,
  newestRecord,
  type RecordFormat,
} from '../../../protocol/boot/boot-record.ts'
import { FlotillaError, isFlotillaError } from '../../../protocol/errors.ts'
import { MAX_DESCRIPTION_BYTES, parseRelease } from '../../../protocol/release/description.ts'
import { compareSequence, type Sequence } from '../../../protocol/release/judge-install.ts'
import { descriptionPath, PROVEN_MARKER, SLOTS_DIRECTORY } from '../../../protocol/boot/slot-layout.ts'
import { type Disk, readSmallFile } from '../../store/disk.ts'
import { type BootControl, requireNotGood } from './boot-control.ts'

/**
 * The boot families whose loader reads a record: U-Boot, GRUB, the selector of extlinux boards, and the loader programs of
 * `directory` and `container`. Two copies, the older of which is overwritten in place each time.
 * @see protocol/spec/slots.md, "Boot records"
 */
export class RecordBoot implements BootControl {
  readonly oneShot = false
  readonly #disk: Disk
  readonly #booted: string
  readonly #format: RecordFormat
  readonly #counts: 'loader' | 'agent'

  /**
   * @param booted - the slot that the loader started, from what the kernel or the loader's child was given
   * @param counts - who takes the tries; only a loader that counts is asked for evidence
   */
  constructor(disk: Disk, booted: string, format: RecordFormat, counts: 'loader' | 'agent' = 'loader') {
    this.#disk = disk
    this.#booted = booted
    this.#format = format
    this.#counts = counts
  }

  current(): string {
    return this.#booted
  }

  async good(): Promise<string> {
    return (await this.#read()).good
  }

  async invalidate(slot: string): Promise<void> {
    const record = await this.#read()
    requireNotGood(record.good, slot)
    if (record.trial === slot) await this.#write({ ...record, trial: undefined, tries: 0 })
  }

  async arm(slot: string, tries: number): Promise<void> {
    const record = await this.#read()
    if (this.#counts === 'agent')
      return this.#write({ ...record, trial: slot, tries, canaryAsked: 1, canarySeen: 1, loadFailed: false })
    requireAnswer(record)
    await this.#write({ ...record, trial: slot, tries, canaryAsked: record.canaryAsked + 1, loadFailed: false })
  }

  async markGood(slot: string): Promise<void> {
    await markProven(this.#disk, slot)
    const record = await this.#read()
    const { rescuePath, encode } = this.#format
    if (record.good !== slot || record.trial !== undefined)
      await this.#write({ ...record, good: slot, trial: undefined, tries: 0, loadFailed: false })
    if (rescuePath !== undefined) await overwrite(this.#disk, rescuePath, encode(freshRecord(slot)))
  }

  async markBad(slot: string): Promise<void> {
    const record = await this.#read()
    if (record.trial === slot) await this.#write({ ...record, trial: undefined, tries: 0 })
  }

  async remaining(slot: string): Promise<number | undefined> {
    const record = await this.#read()
    return record.trial === slot ? record.tries : undefined
  }

  async counterMoves(): Promise<boolean> {
    return hasAnswered(await this.#read())
  }

  async requireCounting(): Promise<void> {
    requireAnswer(await this.#read())
  }

  async loadFailed(): Promise<boolean> {
    return (await this.#read()).loadFailed
  }

  /**
   * Takes one try of the slot on trial. A loader that is passed by cannot answer: what it was asked is taken back, and its last answer
   * stands. @returns the slot, undefined when there is no try to take
   */
  async takeTry(): Promise<string | undefined> {
    const record = await this.#read()
    if (record.trial === undefined || record.tries === 0) return undefined
    await this.#write({ ...record, tries: record.tries - 1, canaryAsked: record.canarySeen })
    return record.trial
  }

  /** Records that are lost altogether are begun anew, both of them: a loader may be able to overwrite them, not to make them. */
  async settle(): Promise<void> {
    const copies = await readRecords(this.#disk, this.#format)
    if (copies.some((copy) => copy !== undefined)) return
    const record = await this.#read()
    await this.#write(record)
    await this.#write(record)
  }

  prepareReboot(): Promise<string | undefined> {
    return Promise.resolve(undefined)
  }

  async #read(): Promise<BootRecord> {
    const { record } = newestRecord(await readRecords(this.#disk, this.#format), this.#format.sequences)
    return record ?? { ...freshRecord(this.#booted), canaryAsked: 1 }
  }

  #write(record: BootRecord): Promise<void> {
    return writeRecord(this.#disk, this.#format, record)
  }
}

function hasAnswered({ canaryAsked, canarySeen }: BootRecord): boolean {
  return canarySeen === canaryAsked && canarySeen > 0
}

function requireAnswer(record: BootRecord): void {
  if (hasAnswered(record)) return
  const { canaryAsked: asked, canarySeen: seen } = record
  throw new FlotillaError(
    'BOOT_COUNTER_STUCK',
    `update: the loader did not answer the last canary (asked ${asked}, seen ${seen}), so falling back cannot be relied on; reboot once, and check that the loader can write the boot area`,
    { details: { asked, seen } },
  )
}

async function readRecords(disk: Disk, format: RecordFormat): Promise<(BootRecord | undefined)[]> {
  return Promise.all(
    // One byte more: a file of another length is no record.
    BOOT_RECORD_PATHS.map(async (path) => format.parse(await disk.read(path, 0, format.lengthBytes + 1))),
  )
}

/** Overwrites the older copy in place, with the next sequence. */
async function writeRecord(disk: Disk, format: RecordFormat, record: BootRecord): Promise<void> {
  const newest = newestRecord(await readRecords(disk, format), format.sequences)
  const seq = ((newest.record?.seq ?? format.sequences - 1) + 1) % format.sequences
  await overwrite(disk, BOOT_RECORD_PATHS[newest.writeTo], format.encode({ ...record, seq }))
}

/** Overwrites a file of this length in place; only where it was lost it is made. */
export async function overwrite(disk: Disk, path: string, bytes: Uint8Array): Promise<void> {
  if ((await disk.length(path)) !== bytes.length) {
    await disk.allocate(path, bytes.length)
    await disk.flushDirectory('.')
  }
  await disk.write(path, 0, bytes)
  await disk.flush(path)
}

/** Says in the slot that its release was proven here. */
export async function markProven(disk: Disk, slot: string): Promise<void> {
  const path = `${SLOTS_DIRECTORY}/${slot}/${PROVEN_MARKER}`
  if ((await disk.length(path)) !== undefined) return
  await disk.allocate(path, 0)
  await disk.flush(path)
  await disk.flushDirectory(`${SLOTS_DIRECTORY}/${slot}`)
}

/**
 * A loader's whole decision: reads the records, counts the try on the medium, names the slot to start. The scripts of U-Boot
 * and GRUB decide in the same way (`builder/loaders`).
 * With all records damaged it starts a release that was proven; a trial whose count cannot be written is not started.
 * @throws FlotillaError NOT_FOUND when there is nothing that may boot
 */
export async function loadSlot(
  disk: Disk,
  format: RecordFormat,
): Promise<{ readonly slot: string; readonly why: 'good' | 'trial' | 'rescue' }> {
  const { record } = newestRecord(await readRecords(disk, format), format.sequences)
  if (record === undefined) {
    const { rescuePath } = format
    const rescue =
      rescuePath === undefined ? undefined : format.parse(await disk.read(rescuePath, 0, format.lengthBytes))
    const slot = rescue?.good ?? (await anyProven(disk))
    // Writing it anew shows that this loader can write, and lets updates go on.
    await tryWrite(disk, format, { ...freshRecord(slot), canaryAsked: 1, canarySeen: 1 })
    return { slot, why: 'rescue' }
  }
  const choice = chooseBoot(record)
  if (choice.write === undefined) return { slot: choice.slot, why: 'good' }
  if (!(await tryWrite(disk, format, choice.write))) return { slot: record.good, why: 'good' }
  return { slot: choice.slot, why: choice.slot === record.good ? 'good' : 'trial' }
}

async function tryWrite(disk: Disk, format: RecordFormat, record: BootRecord): Promise<boolean> {
  try {
    await writeRecord(disk, format, record)
    return true
  } catch (error) {
    if (!isFlotillaError(error)) throw error
    return false
  }
}

/** The newest release that was proven here, by its signed sequence. */
async function anyProven(disk: Disk): Promise<string> {
  let best: { readonly slot: string; readonly sequence: Sequence } | undefined
  for (const slot of await disk.list(SLOTS_DIRECTORY)) {
    if ((await disk.length(`${SLOTS_DIRECTORY}/${slot}/${PROVEN_MARKER}`)) === undefined) continue
    const sequence = await readSequence(disk, slot)
    if (best === undefined || compareSequence(sequence, best.sequence) > 0) best = { slot, sequence }
  }
  if (best !== undefined) return best.slot
  throw new FlotillaError('NOT_FOUND', 'load: both boot records are damaged and no release here was ever proven')
}

async function readSequence(disk: Disk, slot: string): Promise<Sequence> {
  try {
    const bytes = await readSmallFile(disk, descriptionPath(slot), MAX_DESCRIPTION_BYTES)
    return parseRelease(bytes ?? new Uint8Array()).description
  } catch {
    return { era: 0, seq: 0 } // unreadable: the last choice
  }
}
