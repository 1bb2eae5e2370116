import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { shortId } from '../../protocol/release/description.ts'
import { checkBootPartition, copyImage } from './boot-files.ts'
import { RecordedUpgrade } from './recorded-upgrade.ts'
import { MACHINE_FAMILIES } from './virtual-board.ts'
import { VirtualFleet } from './virtual-fleet.ts'

const STARTED_MS = 240_000
const UPGRADED_MS = 900_000
/** From the start of a machine to its cut, with the time that a laptop waits for it, on a busy machine. */
const CUT_MS = 300_000
/** States of the record that are booted, of each kind. */
const BOOTED = 4
/** Cuts at random moments of a real run; `FLOTILLA_CUTS` asks for more. */
const CUTS = Number(process.env['FLOTILLA_CUTS'] ?? 12)

describe.each(MACHINE_FAMILIES)('power cuts on a virtual machine with the real %s', (family) => {
  let fleet: VirtualFleet
  let first: string
  let next: string
  let recorded: RecordedUpgrade

  beforeAll(async () => {
    fleet = new VirtualFleet(family)
    await fleet.init()
    first = await fleet.release({ version: '1.0' })
    await fleet.addDevice('one', first)
    await fleet.addDevice('two', first)
    const machine = fleet.start('one')
    await machine.waitFor(/"event":"started"/, STARTED_MS)
    await fleet.cut('one')
    next = await fleet.release({ version: '2.0', payloadMiB: 2 })
    const end = RecordedUpgrade.begin(fleet, 'one')
    await fleet.device('one').machine?.waitFor(/"event":"started"/, STARTED_MS)
    await fleet.flotilla('seed', fleet.device('one').address, next, '--until', 'first', '--timeout', '600')
    await fleet.untilTold('one', 'proven', next, UPGRADED_MS)
    recorded = await end()
  }, 1_800_000)
  afterAll(() => fleet.close())

  it('leave a whole release to start, whatever was written, torn or lost', () => {
    const { counts, chosen, problems } = recorded.judge(family, first, next, 48)
    expect(problems).toEqual([])
    for (const id of [first, next]) expect(chosen.get(shortId(id))).toBeGreaterThan(10)
    const { boot, rest } = recorded.bytesWritten()
    process.stderr.write(
      `${family}: ${counts.prefix} states after a write, ${counts.torn} torn, ${counts.lost} with lost writes; ` +
        `${boot} bytes written to the boot partition, ${rest} to the rest\n`,
    )
  })

  it('would be seen to break a disk, if the loader were told before the release is written', () => {
    expect(recorded.reversed().judge(family, first, next, 6).problems.length).toBeGreaterThan(0)
  })

  it('leave a file system that is sound once it is repaired', () => {
    const writes = recorded.bootWrites()
    const step = Math.ceil(writes.length / 24)
    const sample = writes.filter((_, index) => index % step === 0)
    for (const keepsUnflushed of [true, false])
      for (const at of sample) expect(recorded.problemsAfterRepair(at, keepsUnflushed)).toBe('')
  })

  /** Boots a disk and lets it become what is signed for it. @returns the release that it started first */
  const startAndFinish = async (name: string): Promise<string | undefined> => {
    const machine = fleet.start(name)
    await machine.waitFor(/"event":"started"/, STARTED_MS)
    await fleet.flotilla('seed', fleet.device(name).address, next, '--until', 'all', '--timeout', '900')
    // It may have run the release from the start: what counts is what it says of itself.
    for (const deadline = performance.now() + UPGRADED_MS; ; await pause(1_000)) {
      const rows = await fleet.heardBy(name).catch(() => [])
      const row = rows.find((found) => found.name === name)
      if (row?.version === '2.0' && row.state === 'proven') break
      if (performance.now() > deadline)
        throw new Error(`${name} does not finish: ${JSON.stringify(rows)}\n${machine.console.slice(-3_000)}`)
    }
    const [, slot] = /flotilla-init: slot (\w+)/.exec(machine.console) ?? []
    await fleet.cut(name)
    expect(checkBootPartition(fleet.device(name).disk, fleet.directory, true)).toBe('')
    return slot
  }

  it('are survived by machines that really start from such disks, and finish the update', async () => {
    const writes = recorded.bootWrites()
    const seen = new Set<string | undefined>()
    for (const keepsUnflushed of [true, false])
      for (let n = 1; n <= BOOTED; n += 1) {
        // More of them near the end, where the switch is.
        const at = writes[Math.floor((writes.length - 1) * (1 - (n - 1) ** 2 / (2 * BOOTED ** 2)))] ?? 0
        recorded.diskAfter(at, keepsUnflushed, fleet.device('one').disk)
        seen.add(await startAndFinish('one'))
      }
    expect([...seen].every((slot) => slot === shortId(first) || slot === shortId(next))).toBe(true)
  })

  it(
    'at random moments of a real upgrade leave exactly one release or the other',
    async () => {
      const { disk } = fleet.device('two')
      const fresh = join(fleet.directory, 'fresh.img')
      copyImage(disk, fresh)
      let hits = 0
      for (let cut = 0; cut < CUTS; cut += 1) {
        const machine = fleet.start('two')
        const seeding = machine
          .waitFor(/"event":"started"/, STARTED_MS)
          // Not for longer than it may run: it would wait for a device that is off.
          .then(() => fleet.flotilla('seed', fleet.device('two').address, next, '--until', 'first', '--timeout', '90'))
          .catch(() => '')
        // Spread over start, staging, arming, the trial and what comes after.
        await new Promise((resolve) => setTimeout(resolve, 20_000 + ((cut * 97_000) % 140_000)))
        const { console } = machine
        await fleet.cut('two')
        await seeding
        const started = [...console.matchAll(/flotilla-init: slot (\w+)/g)].map(([, slot]) => slot)
        expect(started.every((slot) => slot === shortId(first) || slot === shortId(next))).toBe(true)
        if (started.length > 0) hits += 1
        if (/"event":"proven"/.test(console)) copyImage(fresh, disk)
      }
      expect(hits).toBeGreaterThan(CUTS / 2)
      expect([shortId(first), shortId(next)]).toContain(await startAndFinish('two'))
      process.stderr.write(`${family}: ${CUTS} cuts at random moments, ${hits} while a release ran\n`)
    },
    CUTS * CUT_MS + UPGRADED_MS,
  )
})
