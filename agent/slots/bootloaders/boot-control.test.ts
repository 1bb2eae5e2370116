import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { BOOT_RECORD_BYTES, firstBootRecords } from '../../../protocol/boot/boot-record.ts'
import { PROVEN_MARKER, SLOTS_DIRECTORY } from '../../../protocol/boot/slot-layout.ts'
import type { Disk } from '../../store/disk.ts'
import { MemoryDisk } from '../../store/memory-disk.ts'
import { NodeDisk } from '../../store/node-disk.ts'
import type { BootControl } from './boot-control.ts'
import { DirectoryBoot, loadSlot } from './directory.ts'

const OLD = '0'.repeat(16)
const NEW = '1'.repeat(16)

/** A board of one family: what the agent sees, and what pressing the power button does. */
type Board = {
  readonly control: (booted: string) => BootControl
  /** Firmware and loader: the slot that is started. */
  readonly powerUp: () => Promise<string>
  readonly close: () => Promise<void>
}

const directory = mkdtempSync(join(tmpdir(), 'flotilla-boot-'))
afterAll(() => rmSync(directory, { recursive: true }))
let boards = 0

async function directoryBoard(disk: Disk, close: () => Promise<void>): Promise<Board> {
  for (const slot of [OLD, NEW]) await disk.makeDirectory(`${SLOTS_DIRECTORY}/${slot}`)
  await disk.allocate(`${SLOTS_DIRECTORY}/${OLD}/${PROVEN_MARKER}`, 0)
  for (const { path, bytes } of firstBootRecords(OLD)) {
    await disk.allocate(path, BOOT_RECORD_BYTES)
    await disk.write(path, 0, bytes)
    await disk.flush(path)
  }
  return {
    control: (booted) => new DirectoryBoot(disk, booted),
    powerUp: async () => (await loadSlot(disk)).slot,
    close,
  }
}

/** Every boot family, on every disk, passes this one test. */
const FAMILIES: readonly (readonly [string, () => Promise<Board>])[] = [
  ['directory, in memory', () => directoryBoard(new MemoryDisk(), () => Promise.resolve())],
  [
    'directory, on a file system',
    async () => {
      boards += 1
      const disk = new NodeDisk(join(directory, String(boards)))
      await disk.makeDirectory('.')
      return directoryBoard(disk, () => disk.close())
    },
  ],
]

describe.each(FAMILIES)('the boot contract: %s', (_name, make) => {
  async function board(test: (board: Board) => Promise<void>): Promise<void> {
    const made = await make()
    try {
      await test(made)
    } finally {
      await made.close()
    }
  }

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

  it('arms only when the loader was seen to count since the last time', () =>
    board(async ({ control, powerUp }) => {
      expect(await control(OLD).counterMoves()).toBe(false)
      await expect(control(OLD).arm(NEW, 1)).rejects.toMatchObject({ code: 'BOOT_COUNTER_STUCK' })
      await powerUp()
      expect(await control(OLD).counterMoves()).toBe(true)
      await control(OLD).arm(NEW, 1)
      await expect(control(OLD).arm(NEW, 1)).rejects.toMatchObject({ code: 'BOOT_COUNTER_STUCK' })
    }))
})
