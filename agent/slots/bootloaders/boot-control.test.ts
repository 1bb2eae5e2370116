import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { BINARY_FORMAT, type RecordFormat } from '../../../protocol/boot/boot-record.ts'
import { GRUB_FORMAT, UBOOT_FORMAT } from '../../../protocol/boot/environment-record.ts'
import {
  encodeLoaderEntry,
  ENTRIES_DIRECTORY,
  GOOD_ENTRIES,
  LOADER_ENTRY_BYTES,
  parseLoaderEntry,
  parseTrialEntryName,
  trialEntryName,
} from '../../../protocol/boot/loader-entry.ts'
import {
  encodeExtlinux,
  encodePiSelector,
  EXTLINUX_FORMAT,
  RASPBERRY_PI_FORMAT,
} from '../../../protocol/boot/pointer-files.ts'
import { firstBootRecords } from '../../../protocol/boot/boot-record.ts'
import { type BootFamily, type SlotBoot, slotFiles } from '../../../protocol/boot/slot-files.ts'
import { PROVEN_MARKER, SLOTS_DIRECTORY } from '../../../protocol/boot/slot-layout.ts'
import type { Disk } from '../../store/disk.ts'
import { MemoryDisk } from '../../store/memory-disk.ts'
import { NodeDisk } from '../../store/node-disk.ts'
import type { BootControl } from './boot-control.ts'
import { ExtlinuxBoot } from './extlinux.ts'
import { PointerFiles } from './pointer-files.ts'
import { RaspberryPiBoot, TRYBOOT_ARGUMENT } from './raspberry-pi.ts'
import { loadSlot, RecordBoot } from './record-boot.ts'
import { SystemdBoot } from './systemd-boot.ts'

const OLD = '0'.repeat(16)
const NEW = '1'.repeat(16)

/** A board of one family: what the agent sees, and what pressing the power button does. */
type Board = {
  readonly control: (booted: string) => BootControl
  /** Firmware and loader: the slot that is started. The real ones do the same in virtual machines (test/machine). */
  readonly powerUp: () => Promise<string>
  /** The evidence is gone: the records, or the entry that was counted. */
  readonly lose: () => Promise<void>
  readonly close: () => Promise<void>
}
/** What a family's loader does when the machine starts. @param argument - of the reboot, undefined after a reset */
type Loader = (disk: Disk, argument: string | undefined) => Promise<string>

const directory = mkdtempSync(join(tmpdir(), 'flotilla-boot-'))
afterAll(() => rmSync(directory, { recursive: true }))
let boards = 0

const bootOf = (slot: string): SlotBoot => ({
  slot,
  kernel: 'Image',
  initramfs: 'initramfs.cpio.gz',
  deviceTree: '',
  commandLine: 'console=ttyS0',
  trialSeconds: 300,
})

async function put(disk: Disk, path: string, bytes: Uint8Array): Promise<void> {
  const parent = path.split('/').slice(0, -1).join('/')
  if (parent !== '') await disk.makeDirectory(parent)
  await disk.allocate(path, bytes.length)
  if (bytes.length > 0) await disk.write(path, 0, bytes)
  await disk.flush(path)
}

/** What the factory writes, as far as the loader reads it. */
async function furnish(disk: Disk, family: BootFamily, format: RecordFormat | undefined): Promise<void> {
  for (const slot of [OLD, NEW]) {
    await disk.makeDirectory(`${SLOTS_DIRECTORY}/${slot}`)
    for (const { name, bytes } of slotFiles(family, bootOf(slot)))
      await put(disk, `${SLOTS_DIRECTORY}/${slot}/${name}`, bytes)
  }
  await put(disk, `${SLOTS_DIRECTORY}/${OLD}/${PROVEN_MARKER}`, new Uint8Array())
  for (const { path, bytes } of format === undefined ? [] : firstBootRecords(OLD, format)) await put(disk, path, bytes)
  if (family === 'systemd-boot') {
    const entry = (version: number, enabled: boolean, kind: 'good' | 'canary') =>
      encodeLoaderEntry({ version, enabled, kind, boot: bootOf(OLD) }, 'x64')
    await put(disk, `${ENTRIES_DIRECTORY}/flotilla-a.conf`, entry(1, true, 'good'))
    await put(disk, `${ENTRIES_DIRECTORY}/flotilla-b.conf`, entry(0, false, 'good'))
    await put(disk, `${ENTRIES_DIRECTORY}/${trialEntryName(9, 0)}`, entry(0, true, 'canary'))
  }
  if (family === 'raspberry-pi') {
    await put(disk, 'config.txt', encodePiSelector('a'))
    await put(disk, 'tryboot.txt', encodePiSelector('b'))
    for (const place of ['a', 'b'] as const)
      await put(disk, RASPBERRY_PI_FORMAT.placeOf(place).path, RASPBERRY_PI_FORMAT.encodePlace(place, bootOf(OLD)))
  }
  if (family === 'extlinux') await put(disk, 'extlinux/extlinux.conf', encodeExtlinux(bootOf(OLD)))
}

/** Counts by renaming, as systemd-boot does; entries with no tries left come last. */
const systemdBootLoader: Loader = async (disk) => {
  for (const name of await disk.list(ENTRIES_DIRECTORY)) {
    const counters = parseTrialEntryName(name)
    const entry = parseLoaderEntry(await disk.read(`${ENTRIES_DIRECTORY}/${name}`, 0, LOADER_ENTRY_BYTES))
    if (counters === undefined || counters.left === 0 || entry?.enabled !== true) continue
    const next = trialEntryName(counters.left - 1, counters.done + 1)
    await disk.rename(`${ENTRIES_DIRECTORY}/${name}`, `${ENTRIES_DIRECTORY}/${next}`)
    await disk.flushDirectory(ENTRIES_DIRECTORY)
    return entry.slot
  }
  const good = await Promise.all(
    GOOD_ENTRIES.map(async (name) =>
      parseLoaderEntry(await disk.read(`${ENTRIES_DIRECTORY}/${name}`, 0, LOADER_ENTRY_BYTES)),
    ),
  )
  const [best] = good.flatMap((entry) => (entry?.enabled === true ? [entry] : [])).sort((a, b) => b.version - a.version)
  if (best === undefined) throw new Error('no entry')
  return best.slot
}

/** Reads tryboot.txt when it was asked to, once; it writes nothing. */
const piFirmware: Loader = async (disk, argument) => {
  const path = argument === TRYBOOT_ARGUMENT ? 'tryboot.txt' : 'config.txt'
  const place = RASPBERRY_PI_FORMAT.parseSwitch(await disk.read(path, 0, 512))
  if (place === undefined) throw new Error(`${path} is not whole`)
  const slot = await new PointerFiles(disk, RASPBERRY_PI_FORMAT).slotAt(place)
  if (slot === undefined) throw new Error(`place ${place} is not whole`)
  return slot
}

/** The label that counts, whose initramfs reads the record. */
const extlinuxLoader: Loader = async (disk) => {
  const files = new PointerFiles(disk, EXTLINUX_FORMAT)
  const own = await files.slotAt(await files.selected())
  const { slot, why } = await loadSlot(disk, BINARY_FORMAT)
  if (own === undefined) throw new Error('the label is not whole')
  return why === 'trial' ? slot : own
}

const recordLoader =
  (format: RecordFormat): Loader =>
  async (disk) =>
    (await loadSlot(disk, format)).slot

type Family = {
  readonly family: BootFamily
  readonly format: RecordFormat | undefined
  readonly loader: Loader
  readonly control: (disk: Disk, booted: string) => BootControl
}
const record = (family: BootFamily, format: RecordFormat): Family => ({
  family,
  format,
  loader: recordLoader(format),
  control: (disk, booted) => new RecordBoot(disk, booted, format),
})
const FAMILIES: readonly Family[] = [
  record('directory', BINARY_FORMAT),
  record('uboot', UBOOT_FORMAT),
  record('grub', GRUB_FORMAT),
  {
    family: 'systemd-boot',
    format: undefined,
    loader: systemdBootLoader,
    control: (disk, booted) => new SystemdBoot(disk, booted, 'x64'),
  },
  {
    family: 'raspberry-pi',
    format: BINARY_FORMAT,
    loader: piFirmware,
    control: (disk, booted) => new RaspberryPiBoot(disk, booted, () => Promise.resolve(undefined)),
  },
  {
    family: 'extlinux',
    format: BINARY_FORMAT,
    loader: extlinuxLoader,
    control: (disk, booted) => new ExtlinuxBoot(disk, booted),
  },
]
const DISKS = ['in memory', 'on a file system'] as const

async function boardOf({ family, format, loader, control }: Family, where: (typeof DISKS)[number]): Promise<Board> {
  boards += 1
  const files = new NodeDisk(join(directory, String(boards)))
  const disk: Disk = where === 'in memory' ? new MemoryDisk() : files
  await disk.makeDirectory('.')
  await furnish(disk, family, format)
  let booted = OLD
  return {
    control: (slot) => control(disk, slot),
    powerUp: async () => {
      booted = await loader(disk, await control(disk, booted).prepareReboot())
      return booted
    },
    lose: async () => {
      const entries = (await disk.list(ENTRIES_DIRECTORY)).filter((name) => parseTrialEntryName(name) !== undefined)
      for (const path of ['select.0', 'select.1', ...entries.map((name) => `${ENTRIES_DIRECTORY}/${name}`)])
        await disk.remove(path)
    },
    close: () => files.close(),
  }
}

const EVERY = FAMILIES.flatMap((family) =>
  DISKS.map((where) => [`${family.family}, ${where}`, () => boardOf(family, where)] as const),
)
const COUNTING = EVERY.filter(([name]) => !name.startsWith('raspberry-pi'))

/** Runs a test on a board of its own. */
async function onBoard(make: () => Promise<Board>, test: (board: Board) => Promise<void>): Promise<void> {
  const made = await make()
  try {
    await test(made)
  } finally {
    await made.close()
  }
}

describe.each(EVERY)('the boot contract: %s', (_name, make) => {
  const board = (test: (board: Board) => Promise<void>) => onBoard(make, test)

  it('boots the good slot, and says what booted by what it was told', () =>
    board(async ({ control, powerUp }) => {
      expect(await powerUp()).toBe(OLD)
      expect(control(OLD).current()).toBe(OLD)
      expect(control(NEW).current()).toBe(NEW)
      expect(await control(OLD).good()).toBe(OLD)
    }))

  it('tries an armed slot exactly as often as asked, then falls back and stays there', () =>
    board(async ({ control, powerUp }) => {
      await powerUp()
      await control(OLD).arm(NEW, 3)
      expect(await control(OLD).remaining(NEW)).toBe(3)
      expect([await powerUp(), await powerUp(), await powerUp()]).toEqual([NEW, NEW, NEW])
      expect(await control(OLD).remaining(NEW)).toBe(0)
      expect([await powerUp(), await powerUp()]).toEqual([OLD, OLD])
    }))

  it('counts the tries that the agent takes in the place of a loader that it passes by', () =>
    board(async ({ control, powerUp }) => {
      await powerUp()
      await control(OLD).arm(NEW, 2)
      const { takeTry } = control(OLD)
      if (takeTry === undefined) return expect(await powerUp()).toBe(NEW)
      expect(await takeTry.call(control(OLD))).toBe(NEW)
      expect(await control(NEW).remaining(NEW)).toBe(1)
      expect([await powerUp(), await powerUp()]).toEqual([NEW, OLD])
      expect(await takeTry.call(control(OLD))).toBeUndefined()
      // The next update need not wait for a loader that was not asked.
      await control(OLD).arm(NEW, 1)
      await takeTry.call(control(OLD))
      await control(NEW).markGood(NEW)
      await control(NEW).requireCounting()
    }))

  it('stays with a slot that was marked good in its trial', () =>
    board(async ({ control, powerUp }) => {
      await powerUp()
      await control(OLD).arm(NEW, 2)
      await powerUp()
      await control(NEW).markGood(NEW)
      expect(await control(NEW).good()).toBe(NEW)
      expect(await control(NEW).remaining(NEW)).toBeUndefined()
      for (let boot = 0; boot < 4; boot += 1) expect(await powerUp()).toBe(NEW)
    }))

  it('takes a slot off trial when it is marked bad or invalidated, and never invalidates the good one', () =>
    board(async ({ control, powerUp }) => {
      await powerUp()
      await control(OLD).arm(NEW, 2)
      await control(OLD).markBad(NEW)
      expect(await powerUp()).toBe(OLD)
      await control(OLD).arm(NEW, 2)
      await powerUp()
      await control(NEW).invalidate(NEW)
      expect(await powerUp()).toBe(OLD)
      await expect(control(OLD).invalidate(OLD)).rejects.toMatchObject({ code: 'BUSY' })
    }))

  it('goes back to a slot that was proven before, and forward again', () =>
    board(async ({ control, powerUp }) => {
      await powerUp()
      await control(OLD).arm(NEW, 2)
      await powerUp()
      await control(NEW).markGood(NEW)
      await control(NEW).markGood(OLD)
      expect(await control(NEW).good()).toBe(OLD)
      expect([await powerUp(), await powerUp()]).toEqual([OLD, OLD])
      await control(OLD).markGood(NEW)
      expect([await powerUp(), await powerUp()]).toEqual([NEW, NEW])
    }))

  it('marks a slot good a second time without harm, as after a cut between the mark and its journal', () =>
    board(async ({ control, powerUp }) => {
      await powerUp()
      await control(OLD).arm(NEW, 1)
      await powerUp()
      await control(NEW).markGood(NEW)
      await control(NEW).markGood(NEW)
      expect(await powerUp()).toBe(NEW)
    }))

  it('changes nothing when it settles, and the next trial can be armed', () =>
    board(async ({ control, powerUp }) => {
      await powerUp()
      await control(OLD).settle()
      expect(await powerUp()).toBe(OLD)
      await control(OLD).settle()
      await control(OLD).arm(NEW, 1)
      expect([await powerUp(), await powerUp()]).toEqual([NEW, OLD])
      await control(OLD).markBad(NEW)
      await control(OLD).settle()
      await control(OLD).arm(NEW, 1)
      expect([await powerUp(), await powerUp()]).toEqual([NEW, OLD])
    }))
})

describe.each(COUNTING)('a loader that counts: %s', (_name, make) => {
  it('arms only when the loader was seen to count since the last time', () =>
    onBoard(make, async ({ control, powerUp }) => {
      expect(await control(OLD).counterMoves()).toBe(false)
      await expect(control(OLD).requireCounting()).rejects.toMatchObject({ code: 'BOOT_COUNTER_STUCK' })
      await expect(control(OLD).arm(NEW, 1)).rejects.toMatchObject({ code: 'BOOT_COUNTER_STUCK' })
      await powerUp()
      expect(await control(OLD).counterMoves()).toBe(true)
      await control(OLD).requireCounting()
      await control(OLD).arm(NEW, 1)
      await expect(control(OLD).arm(NEW, 1)).rejects.toMatchObject({ code: 'BOOT_COUNTER_STUCK' })
    }))

  it('is asked for evidence anew when what it kept is lost, and updates go on', () =>
    onBoard(make, async ({ control, powerUp, lose }) => {
      await powerUp()
      await lose()
      expect(await control(OLD).counterMoves()).toBe(false)
      await expect(control(OLD).requireCounting()).rejects.toMatchObject({ code: 'BOOT_COUNTER_STUCK' })
      await control(OLD).settle()
      expect(await powerUp()).toBe(OLD)
      expect(await control(OLD).counterMoves()).toBe(true)
      await control(OLD).arm(NEW, 1)
      expect([await powerUp(), await powerUp()]).toEqual([NEW, OLD])
    }))
})
