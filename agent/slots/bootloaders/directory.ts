import { FlotillaError } from '../../../protocol/errors.ts'
import { MAX_DESCRIPTION_BYTES, parseRelease } from '../../../protocol/release/description.ts'
import { compareSequence, type Sequence } from '../../../protocol/release/judge-install.ts'
import { type Disk, readSmallFile } from '../../store/disk.ts'
import {
  BOOT_RECORD_BYTES,
  BOOT_RECORD_PATHS,
  type BootRecord,
  chooseBoot,
  encodeBootRecord,
  newestRecord,
  parseBootRecord,
} from '../../../protocol/boot/boot-record.ts'
import { descriptionPath, PROVEN_MARKER, SLOTS_DIRECTORY } from '../../../protocol/boot/slot-layout.ts'
import type { BootControl } from './boot-control.ts'

/**
 * The `directory` boot family: a boot area on an ordinary file system and a small loader program
 * (`directory-loader.ts`) that plays the bootloader. It is what simulated devices and containers boot from.
 */
export class DirectoryBoot implements BootControl {
  readonly #disk: Disk
  readonly #booted: string

  /** @param booted - the slot that the loader started, as it told (`FLOTILLA_SLOT`) */
  constructor(disk: Disk, booted: string) {
    this.#disk = disk
    this.#booted = booted
  }

  current(): string {
    return this.#booted
  }

  async good(): Promise<string> {
    return (await this.#read()).good
  }

  async invalidate(slot: string): Promise<void> {
    const record = await this.#read()
    if (record.good === slot) throw new FlotillaError('BUSY', `invalidate slot ${slot}: it is the one that boots`)
    if (record.trial === slot) await this.#write({ ...record, trial: undefined, tries: 0 })
  }

  async arm(slot: string, tries: number): Promise<void> {
    const record = await this.#read()
    if (record.canarySeen !== record.canaryAsked) {
      throw new FlotillaError(
        'BOOT_COUNTER_STUCK',
        `arm slot ${slot}: the loader did not answer the last canary, so falling back cannot be relied on; check that it can write the boot area`,
      )
    }
    await this.#write({ ...record, trial: slot, tries, canaryAsked: record.canaryAsked + 1 })
  }

  async markGood(slot: string): Promise<void> {
    await markProven(this.#disk, slot)
    const record = await this.#read()
    if (record.good !== slot || record.trial !== undefined)
      await this.#write({ ...record, good: slot, trial: undefined, tries: 0 })
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
    const record = await this.#read()
    return record.canarySeen === record.canaryAsked && record.canarySeen > 0
  }

  async #read(): Promise<BootRecord> {
    const { record } = newestRecord(await readRecords(this.#disk))
    return record ?? { seq: 0, good: this.#booted, trial: undefined, tries: 0, canaryAsked: 1, canarySeen: 0 }
  }

  async #write(record: BootRecord): Promise<void> {
    await writeRecord(this.#disk, record)
  }
}

async function readRecords(disk: Disk): Promise<(BootRecord | undefined)[]> {
  return Promise.all(
    BOOT_RECORD_PATHS.map(async (path) => parseBootRecord(await disk.read(path, 0, BOOT_RECORD_BYTES))),
  )
}

/** Overwrites the older copy in place, with the next sequence. */
async function writeRecord(disk: Disk, record: BootRecord): Promise<void> {
  const newest = newestRecord(await readRecords(disk))
  const path = BOOT_RECORD_PATHS[newest.writeTo]
  if ((await disk.length(path)) !== BOOT_RECORD_BYTES) {
    await disk.allocate(path, BOOT_RECORD_BYTES)
    await disk.flushDirectory('.')
  }
  await disk.write(path, 0, encodeBootRecord({ ...record, seq: (newest.record?.seq ?? 0) + 1 }))
  await disk.flush(path)
}

async function markProven(disk: Disk, slot: string): Promise<void> {
  const path = `${SLOTS_DIRECTORY}/${slot}/${PROVEN_MARKER}`
  if ((await disk.length(path)) !== undefined) return
  await disk.allocate(path, 0)
  await disk.flush(path)
  await disk.flushDirectory(`${SLOTS_DIRECTORY}/${slot}`)
}

/**
 * The loader's whole decision: reads the records, counts the try on the medium, names the slot to start.
 * With both records damaged it starts a release that was proven; a trial whose count cannot be written is not started.
 * @throws FlotillaError NOT_FOUND when there is nothing that may boot
 */
export async function loadSlot(
  disk: Disk,
): Promise<{ readonly slot: string; readonly why: 'good' | 'trial' | 'rescue' }> {
  const { record } = newestRecord(await readRecords(disk))
  if (record === undefined) {
    const slot = await anyProven(disk)
    // Writing it anew shows that this loader can write, and lets updates go on.
    await writeRecord(disk, { seq: 0, good: slot, trial: undefined, tries: 0, canaryAsked: 1, canarySeen: 1 }).catch(
      (error: unknown) => {
        if (!(error instanceof FlotillaError)) throw error
      },
    )
    return { slot, why: 'rescue' }
  }
  const choice = chooseBoot(record)
  if (choice.write === undefined) return { slot: choice.slot, why: 'good' }
  try {
    await writeRecord(disk, choice.write)
    return { slot: choice.slot, why: choice.slot === record.good ? 'good' : 'trial' }
  } catch (error) {
    if (!(error instanceof FlotillaError)) throw error
    return { slot: record.good, why: 'good' }
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
