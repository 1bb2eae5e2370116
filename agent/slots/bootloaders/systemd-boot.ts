import {
  CANARY_TRIES,
  type EfiMachine,
  encodeLoaderEntry,
  ENTRIES_DIRECTORY,
  ENTRY_SWITCH_AT,
  GOOD_ENTRIES,
  LOADER_ENTRY_BYTES,
  type LoaderEntry,
  newestEntry,
  parseLoaderEntry,
  parseTrialEntryName,
  switchCharacter,
  trialEntryName,
} from '../../../protocol/boot/loader-entry.ts'
import type { SlotBoot } from '../../../protocol/boot/slot-files.ts'
import { FlotillaError } from '../../../protocol/errors.ts'
import { type Disk, requireAsWritten } from '../../store/disk.ts'
import { type BootControl, requireNotGood } from './boot-control.ts'
import { markProven, overwrite } from './record-boot.ts'
import { readSlotBoot } from './slot-boot.ts'

type Found = { readonly path: string; readonly slot: string; readonly version: number; readonly enabled: boolean }
type FoundTrial = Found & { readonly left: number; readonly done: number }

/**
 * The systemd-boot family. Two entries that exist for good name proven slots, a third with counters in its name the one on
 * trial; systemd-boot counts by renaming that one before it starts it. Entries are overwritten only while they do not
 * count, and switched on and off by one character.
 * @see protocol/spec/slots.md, "systemd-boot"; UAPI Group, Boot Loader Specification; systemd, Automatic Boot Assessment
 */
export class SystemdBoot implements BootControl {
  readonly oneShot = false
  readonly #disk: Disk
  readonly #booted: string
  readonly #machine: EfiMachine

  constructor(disk: Disk, booted: string, machine: EfiMachine) {
    this.#disk = disk
    this.#booted = booted
    this.#machine = machine
  }

  current(): string {
    return this.#booted
  }

  async good(): Promise<string> {
    return (await this.#good())?.slot ?? this.#booted
  }

  async invalidate(slot: string): Promise<void> {
    const good = await this.#good()
    requireNotGood(good?.slot, slot)
    for (const entry of [...(await this.#goodEntries()), ...(await this.#trials())])
      if (entry.slot === slot) await this.#switch(entry, false)
    await this.#askForEvidence()
  }

  async arm(slot: string, tries: number): Promise<void> {
    await this.requireCounting()
    await this.#makeTrial(await readSlotBoot(this.#disk, slot), tries, 'trial')
  }

  async markGood(slot: string): Promise<void> {
    await markProven(this.#disk, slot)
    const entries = await this.#goodEntries()
    const good = newestEntry(entries)
    if (good?.slot !== slot) {
      const path = GOOD_ENTRIES.map((name) => `${ENTRIES_DIRECTORY}/${name}`).find((other) => other !== good?.path)
      const version = Math.max(0, ...entries.map((entry) => entry.version)) + 1
      const boot = await readSlotBoot(this.#disk, slot)
      if (path !== undefined) await this.#replace(path, { version, enabled: true, kind: 'good', boot })
    }
    for (const trial of await this.#trials()) await this.#switch(trial, false)
  }

  async markBad(slot: string): Promise<void> {
    for (const trial of await this.#trials()) if (trial.slot === slot) await this.#switch(trial, false)
    await this.#askForEvidence()
  }

  async remaining(slot: string): Promise<number | undefined> {
    return (await this.#trials()).find((trial) => trial.enabled && trial.slot === slot)?.left
  }

  async counterMoves(): Promise<boolean> {
    const trials = await this.#trials()
    const enabled = trials.filter((trial) => trial.enabled)
    return (enabled.length > 0 ? enabled : trials).some(({ done }) => done > 0)
  }

  async requireCounting(): Promise<void> {
    if (await this.counterMoves()) return
    throw new FlotillaError(
      'BOOT_COUNTER_STUCK',
      'update: systemd-boot was not seen to count a boot since the last trial, so falling back cannot be relied on; reboot once, and check that the firmware can write the boot partition',
    )
  }

  loadFailed(): Promise<boolean> {
    return Promise.resolve(false)
  }

  async settle(): Promise<void> {
    const good = await this.#good()
    if (good === undefined || good.slot !== this.#booted) return
    // A canary that was answered goes on counting at every boot.
    if (await this.counterMoves())
      for (const trial of await this.#trials())
        if (trial.enabled && trial.slot === good.slot) await this.#switch(trial, false)
    await this.#askForEvidence()
  }

  /** Without an entry that was counted there is no evidence: one of the good slot is the canary of the next boot. */
  async #askForEvidence(): Promise<void> {
    const good = await this.#good()
    if (good === undefined || (await this.counterMoves())) return
    if ((await this.#trials()).some(({ enabled }) => enabled)) return
    await this.#makeTrial(await readSlotBoot(this.#disk, good.slot), CANARY_TRIES, 'canary')
  }

  prepareReboot(): Promise<string | undefined> {
    return Promise.resolve(undefined)
  }

  async #good(): Promise<Found | undefined> {
    return newestEntry(await this.#goodEntries())
  }

  async #goodEntries(): Promise<readonly Found[]> {
    return (await Promise.all(GOOD_ENTRIES.map((name) => this.#read(`${ENTRIES_DIRECTORY}/${name}`)))).flatMap(
      (entry) => entry ?? [],
    )
  }

  async #trials(): Promise<readonly FoundTrial[]> {
    const names = await this.#disk.list(ENTRIES_DIRECTORY)
    const found = await Promise.all(
      names.map(async (name) => {
        const counters = parseTrialEntryName(name)
        const entry = counters === undefined ? undefined : await this.#read(`${ENTRIES_DIRECTORY}/${name}`)
        return entry === undefined || counters === undefined ? [] : [{ ...entry, ...counters }]
      }),
    )
    return found.flat()
  }

  async #read(path: string): Promise<Found | undefined> {
    const entry = parseLoaderEntry(await this.#disk.read(path, 0, LOADER_ENTRY_BYTES + 1))
    return entry === undefined ? undefined : { path, ...entry }
  }

  /**
   * Makes the entry on trial anew, since only systemd-boot may rename it. It counts from the moment it is switched on; the
   * evidence that the loader counts, the one before it, goes after that.
   */
  async #makeTrial(boot: SlotBoot, tries: number, kind: 'trial' | 'canary'): Promise<void> {
    for (const trial of await this.#trials()) if (trial.enabled) await this.#switch(trial, false)
    // Left by an arming that was cut off: it never counted.
    await this.#removeTrials(({ done }) => done === 0)
    const path = `${ENTRIES_DIRECTORY}/${trialEntryName(tries, 0)}`
    await this.#replace(path, { version: 0, enabled: true, kind, boot })
    await this.#removeTrials(({ done }) => done > 0)
  }

  async #removeTrials(isMeant: (counters: { readonly done: number }) => boolean): Promise<void> {
    const names = (await this.#disk.list(ENTRIES_DIRECTORY)).filter((name) => {
      const counters = parseTrialEntryName(name)
      return counters !== undefined && isMeant(counters)
    })
    for (const name of names) await this.#disk.remove(`${ENTRIES_DIRECTORY}/${name}`)
    if (names.length > 0) await this.#disk.flushDirectory(ENTRIES_DIRECTORY)
  }

  /** Off, written, read back, on: each durable before the next. */
  async #replace(path: string, entry: LoaderEntry): Promise<void> {
    const before = await this.#read(path)
    if (before?.enabled === true) await this.#switch(before, false)
    const bytes = encodeLoaderEntry({ ...entry, enabled: false }, this.#machine)
    await overwrite(this.#disk, path, bytes)
    await this.#disk.flushDirectory(ENTRIES_DIRECTORY)
    await requireAsWritten(this.#disk, path, bytes)
    if (entry.enabled) await this.#switch({ path }, true)
  }

  async #switch({ path }: Pick<Found, 'path'>, on: boolean): Promise<void> {
    await this.#disk.write(path, ENTRY_SWITCH_AT, switchCharacter(on, this.#machine))
    await this.#disk.flush(path)
  }
}
