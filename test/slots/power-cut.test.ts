import { describe, expect, it } from 'vitest'
import { loadSlot, RecordBoot } from '../../agent/slots/bootloaders/record-boot.ts'
import { UpdateJournal } from '../../agent/slots/update-journal.ts'
import { type CutMode, PowerCut } from '../../agent/store/memory-disk.ts'
import { BINARY_FORMAT } from '../../protocol/boot/boot-record.ts'
import { factory, type Image, live, NEW, OLD, powerUp, runAgent, slotOf } from './slot-rig.ts'

/** How unflushed and torn writes may end: nothing, everything, every other, and a tear inside the write. */
const MODES: readonly (CutMode & { readonly name: string })[] = [
  { name: 'nothing unflushed is kept', keep: () => false, tearBytes: 0 },
  { name: 'everything unflushed is kept', keep: () => true, tearBytes: 0 },
  { name: 'every other unflushed write is kept', keep: (n) => n % 2 === 0, tearBytes: 0 },
  ...[1, 100, 256, 511, 700].map((tearBytes) => ({
    name: `torn after ${tearBytes} bytes`,
    keep: () => true,
    tearBytes,
  })),
]

describe('an update whose power is cut', () => {
  it('ends on the new release when nothing goes wrong', async () => {
    const disk = await factory()
    expect(await live(disk)).toBe(NEW)
  })

  it('boots exactly the old or exactly the new release after a cut at every write, and then completes', async () => {
    const clean = await factory()
    const before = clean.operations
    await live(clean)
    const writes = clean.operations - before
    let cuts = 0
    const restedOn = { old: 0, new: 0 }
    for (let at = 0; at < writes; at += 1) {
      for (const mode of MODES) {
        const disk = await factory()
        disk.cutPowerAt(at, mode)
        try {
          await live(disk)
        } catch (error) {
          if (!(error instanceof PowerCut))
            throw new Error(`write ${at}, ${mode.name}: ${String(error)}`, { cause: error })
        }
        expect(disk.isDead).toBe(true) // the cut really happened
        disk.powerOn()
        cuts += 1
        let rested: Image
        try {
          rested = await live(disk)
        } catch (error) {
          throw new Error(`after a cut at write ${at}, ${mode.name}: ${String(error)}`, { cause: error })
        }
        restedOn[rested === NEW ? 'new' : 'old'] += 1
      }
    }
    process.stderr.write(
      `power cuts: ${cuts} (${writes} writes × ${MODES.length} ways), then on the new release ${restedOn.new}, on the old one ${restedOn.old}\n`,
    )
    expect(cuts).toBe(writes * MODES.length)
    expect(restedOn.old).toBe(0)
  }, 300_000)

  it('survives a second cut while it recovers from the first', async () => {
    let cuts = 0
    for (let first = 0; first < 60; first += 7) {
      for (let second = 0; second < 60; second += 3) {
        const disk = await factory()
        for (const at of [first, second]) {
          disk.cutPowerAt(at, { keep: (n) => n % 3 === 0, tearBytes: 300 })
          await live(disk).catch((error: unknown) => {
            if (!(error instanceof PowerCut)) throw error
          })
          if (disk.isDead) {
            cuts += 1
            disk.powerOn()
          }
        }
        expect((await live(disk)).release.description.version).toBe('2')
      }
    }
    expect(cuts).toBeGreaterThan(300)
  })

  it('falls back when every trial boot loses power, counting on the medium', async () => {
    const disk = await factory()
    expect(await runAgent(disk, await powerUp(disk))).toBe(true)
    for (let trial = 0; trial < 3; trial += 1) expect(await powerUp(disk)).toBe(NEW) // plug pulled before the agent runs
    expect(await powerUp(disk)).toBe(OLD)
    expect(await runAgent(disk, OLD)).toBe(false)
    const { state } = await new UpdateJournal(disk).load()
    expect(state.failed.map((failed) => failed.version)).toEqual(['2'])
    expect(state.outcome).toBe('fell-back')
  })

  it('boots a proven release when both boot records are damaged', async () => {
    const disk = await factory()
    for (const path of ['select.0', 'select.1']) disk.flipBit(path, 20)
    expect(await loadSlot(disk, BINARY_FORMAT)).toEqual({ slot: slotOf(OLD), why: 'rescue' })
  })

  it('does not arm while the loader was not seen to write its counter', async () => {
    const disk = await factory()
    const control = new RecordBoot(disk, slotOf(OLD), BINARY_FORMAT)
    await expect(control.arm(slotOf(NEW), 2)).rejects.toMatchObject({ code: 'BOOT_COUNTER_STUCK' })
    await loadSlot(disk, BINARY_FORMAT)
    expect(await control.counterMoves()).toBe(true)
    await control.arm(slotOf(NEW), 2)
    expect(await control.remaining(slotOf(NEW))).toBe(2)
  })
})
