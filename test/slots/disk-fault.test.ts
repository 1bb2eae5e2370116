import { describe, expect, it } from 'vitest'
import { UpdateJournal } from '../../agent/slots/update-journal.ts'
import type { MemoryDisk } from '../../agent/store/memory-disk.ts'
import { FlotillaError, type ErrorCode, isFlotillaError } from '../../protocol/errors.ts'
import { factory, live, NEW, OLD, powerUp, runAgent } from './slot-rig.ts'

/** A device just before its n-th boot runs the agent. */
async function beforeBoot(n: number): Promise<MemoryDisk> {
  const disk = await factory()
  for (let boot = 0; boot < n; boot += 1) await runAgent(disk, await powerUp(disk))
  return disk
}

async function writesOfBoot(n: number): Promise<number> {
  const disk = await beforeBoot(n)
  const booted = await powerUp(disk)
  const before = disk.operations
  await runAgent(disk, booted)
  return disk.operations - before
}

describe('an update on a disk that fails', () => {
  const FAULTS: readonly (readonly [string, ErrorCode, number])[] = [
    ['is full at one write', 'NOT_ENOUGH_SPACE', 1],
    ['is full from one write on', 'NOT_ENOUGH_SPACE', Infinity],
    ['is read-only from one write on', 'DISK_FAILED', Infinity],
  ]

  it.each(FAULTS)('keeps what was proven and completes later when the disk %s', async (what, code, count) => {
    let faults = 0
    // The boot that fetches, writes and arms; the trial that confirms.
    for (const boot of [0, 1]) {
      const writes = await writesOfBoot(boot)
      expect(writes).toBeGreaterThan(0)
      for (let at = 0; at < writes; at += 1) {
        const disk = await beforeBoot(boot)
        const booted = await powerUp(disk)
        disk.failAt(at, count, new FlotillaError(code, `write: ${what}`))
        const ended = await runAgent(disk, booted).then(
          () => undefined,
          (error: unknown) => error,
        )
        expect(disk.mend()).toBe(true)
        faults += 1
        // Never anything but the code of the disk.
        if (ended !== undefined) expect(isFlotillaError(ended, code), `write ${at}: ${String(ended)}`).toBe(true)
        expect([OLD, NEW]).toContain(await powerUp(disk))
        expect(await live(disk), `boot ${boot}, write ${at}`).toBe(NEW)
      }
    }
    process.stderr.write(`disk ${what}: ${faults} faults, all end on the new release once the disk is mended\n`)
  })

  it('goes on from the generation before when the journal is damaged, and as a fresh device when both are', async () => {
    for (const damaged of [['update/state'], ['update/state', 'update/state.prev']]) {
      const disk = await beforeBoot(1) // armed; the journal has two generations
      for (const path of damaged) {
        expect(await disk.length(path)).toBeGreaterThan(80)
        disk.flipBit(path, 80)
      }
      const { state } = await new UpdateJournal(disk).load()
      expect(state.phase).not.toBe('armed')
      expect(await live(disk)).toBe(NEW)
    }
  })
})
