import { execFileSync } from 'node:child_process'
import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { FIRST_PARTITION_BYTES } from '../../builder/layers/board.ts'
import { bootPartition, removeBootFile, writeBootFile } from './boot-files.ts'
import { VirtualFleet } from './virtual-fleet.ts'

const STARTED_MS = 240_000
const UPGRADED_MS = 600_000

/** What can be wrong with a boot area before an update, on a real one in a virtual machine. */
describe('a boot area that is not as it should be', () => {
  let fleet: VirtualFleet
  let disk: string
  let next: string

  beforeEach(async () => {
    fleet = new VirtualFleet('grub')
    await fleet.init()
    const first = await fleet.release({ version: '1.0' })
    disk = (await fleet.addDevice('one', first)).disk
    next = await fleet.release({ version: '2.0' })
  })
  afterEach(() => fleet.close())

  const seed = async () => {
    const machine = fleet.start('one')
    await machine.waitFor(/"event":"started"/, STARTED_MS)
    const seeding = fleet.flotilla('seed', fleet.device('one').address, next, '--until', 'first', '--timeout', '300')
    void seeding.catch(() => {})
    return machine
  }

  it('is refused with numbers when it is full, before the first byte', async () => {
    const [free = ''] =
      /([\d ]+) bytes free/
        .exec(execFileSync('mdir', ['-i', bootPartition(disk), '::'], { encoding: 'latin1' }))
        ?.slice(1) ?? []
    writeBootFile(disk, 'ballast', Buffer.alloc(Number(free.replaceAll(' ', '')) - (20 << 20)))
    const machine = await seed()
    // To the end of the line: it comes in parts.
    await machine.waitFor(/"event":"write-failed".*NOT_ENOUGH_SPACE.*\n/, UPGRADED_MS)
    expect(machine.console).toMatch(/NOT_ENOUGH_SPACE.*\d+ .*\d+/)
    expect(machine.console).not.toMatch(/"event":"armed"/)
  })

  it('is repaired at the start when clusters were lost, and the update goes on', async () => {
    writeBootFile(disk, 'lost.bin', Buffer.alloc(1 << 20, 1))
    forgetEntry(disk, 'LOST    BIN')
    const machine = await seed()
    expect(machine.console).toMatch(/"event":"boot-area-repaired"/)
    await fleet.untilTold('one', 'proven', next, UPGRADED_MS)
  })

  it('is refused when the records are gone; the agent makes them anew, and after one boot the update goes on', async () => {
    for (const name of ['select.0', 'select.1']) removeBootFile(disk, name)
    const machine = await seed()
    await machine.waitFor(/"event":"write-failed".*BOOT_COUNTER_STUCK/, UPGRADED_MS)
    expect(machine.console).not.toMatch(/"event":"armed"/)
    // Written, and no more: the plug is pulled.
    await new Promise((resolve) => setTimeout(resolve, 5_000))
    await fleet.cut('one')
    await seed()
    await fleet.untilTold('one', 'proven', next, UPGRADED_MS)
  })
})

/** Deletes the directory entry of a file in the root, and leaves its clusters taken. */
function forgetEntry(image: string, shortName: string): void {
  const file = openSync(image, 'r+')
  const bytes = Buffer.alloc(64 << 20)
  readSync(file, bytes, 0, bytes.length, FIRST_PARTITION_BYTES)
  const at = bytes.indexOf(shortName, 0, 'latin1')
  if (at < 0) throw new Error(`${shortName} is not in the root`)
  writeSync(file, Buffer.from([0xe5]), 0, 1, FIRST_PARTITION_BYTES + at)
  closeSync(file)
}
