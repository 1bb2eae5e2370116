import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { shortId } from '../../protocol/release/description.ts'
import { BAD_RELEASES } from './bad-releases.ts'
import { checkBootPartition, readBootFile, writeBootFile } from './boot-files.ts'
import { MACHINE_FAMILIES } from './virtual-board.ts'
import { eventsIn, VirtualFleet } from './virtual-fleet.ts'

const STARTED_MS = 240_000
const VERDICT_MS = 900_000

describe.each(MACHINE_FAMILIES)('bad releases on a virtual machine with the real %s', (family) => {
  let fleet: VirtualFleet
  let first: string
  let made = 0

  beforeAll(async () => {
    fleet = new VirtualFleet(family)
    await fleet.init()
    first = await fleet.release({ version: '1.0' })
    await fleet.addDevice('one', first)
  })
  afterAll(() => fleet.close())

  /** The releases that were started after the other was armed, in order. */
  const startedAfterArming = (console: string) =>
    [...console.slice(console.lastIndexOf('"event":"armed"')).matchAll(/flotilla-init: slot (\w+)/g)].map(
      ([, slot]) => slot,
    )

  it.each(BAD_RELEASES)('falls back by itself from $what, and says which stage died', async ({ variant, why }) => {
    const bad = await fleet.release({ version: `bad-${(made += 1)}`, ...variant }, 2)
    const machine = fleet.start('one')
    await machine.waitFor(/"event":"started"/, STARTED_MS)
    await fleet.flotilla('seed', fleet.device('one').address, bad, '--until', 'first', '--timeout', '300')
    await fleet.untilTold('one', 'fell-back', bad, VERDICT_MS)
    const told = eventsIn(machine.console).find(({ event, release }) => event === 'fell-back' && release === bad)
    expect(told?.reason).toMatch(why)
    const slots = startedAfterArming(machine.console)
    expect(slots.filter((slot) => slot === shortId(bad)).length).toBeLessThanOrEqual(2)
    await machine.waitFor((console) => startedAfterArming(console).at(-1) === shortId(first), STARTED_MS)
    await fleet.cut('one')
    expect(checkBootPartition(fleet.device('one').disk, fleet.directory, true)).toBe('')
  })

  it('refuses to start a root that rotted after it was verified, and falls back', async () => {
    const bad = await fleet.release({ version: 'rots', commandLine: 'flotilla.verify=1' }, 2)
    const machine = fleet.start('one')
    await machine.waitFor(/"event":"started"/, STARTED_MS)
    const seeded = fleet.flotilla('seed', fleet.device('one').address, bad, '--until', 'first', '--timeout', '300')
    await machine.waitFor(/reboot: Restarting system/, VERDICT_MS)
    await fleet.cut('one')
    await seeded.catch(() => {})
    const { disk } = fleet.device('one')
    const path = `releases/${shortId(bad)}/rootfs.squashfs`
    const rootfs = readBootFile(disk, path)
    if (rootfs === undefined) throw new Error(`no ${path}`)
    rootfs[rootfs.length >> 1] = (rootfs[rootfs.length >> 1] ?? 0) ^ 1
    writeBootFile(disk, path, rootfs)
    const again = fleet.start('one')
    await fleet.untilTold('one', 'fell-back', bad, VERDICT_MS)
    expect(eventsIn(again.console).find(({ event }) => event === 'fell-back')?.reason).toMatch(
      /initramfs: rootfs.squashfs does not match the release's description/,
    )
    await fleet.cut('one')
  })
})
