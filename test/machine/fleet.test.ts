import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { shortId } from '../../protocol/release/description.ts'
import { checkBootPartition } from './boot-files.ts'
import { RecordedUpgrade } from './recorded-upgrade.ts'
import { eventsIn, VirtualFleet } from './virtual-fleet.ts'

const NAMES = ['one', 'two', 'three']
const STARTED_MS = 180_000
const UPGRADED_MS = 600_000

describe('three virtual machines on one network, with the real systemd-boot', { timeout: 900_000 }, () => {
  let fleet: VirtualFleet
  let first: string
  let next: string
  let recorded: RecordedUpgrade | undefined

  beforeAll(async () => {
    fleet = new VirtualFleet('systemd-boot')
    await fleet.init()
    first = await fleet.release({ version: '1.0' })
    for (const name of NAMES) await fleet.addDevice(name, first)
    next = await fleet.release({ version: '2.0', payloadMiB: 8 })
  })
  afterAll(() => fleet.close())

  async function versionsHeardBy(name: string): Promise<(readonly [string, string])[]> {
    return (await fleet.heardBy(name)).map((row) => [row.name, row.version] as const).toSorted()
  }

  it('all end proven on the release that one of them was seeded with, and really started it', async () => {
    const endRecord = RecordedUpgrade.begin(fleet, 'one')
    for (const name of NAMES.slice(1)) fleet.start(name)
    for (const name of NAMES) await fleet.device(name).machine?.waitFor(/"event":"started"/, STARTED_MS)
    const seeded = fleet.flotilla('seed', fleet.device('one').address, next, '--timeout', String(UPGRADED_MS / 1_000))
    for (const name of NAMES) await fleet.untilTold(name, 'proven', next, UPGRADED_MS)
    await seeded
    await expect
      .poll(() => versionsHeardBy('three'), { timeout: 60_000, interval: 2_000 })
      .toEqual(NAMES.toSorted().map((name) => [name, '2.0']))
    for (const name of NAMES) {
      const { machine, disk } = fleet.device(name)
      const console = machine?.console ?? ''
      const story = eventsIn(console)
        .filter(({ release }) => release === next)
        .map(({ event }) => event)
      expect(story).toEqual(['fetched', 'written', 'armed', 'trial', 'proven'])
      // Persist was grown, and got its keys, at the first of two boots.
      expect(console.match(/grow partition/g)).toHaveLength(1)
      expect(console.match(/make the SSH host key/g)).toHaveLength(2)
      expect(console.match(/^release \S+ in /gm)).toEqual(['release 1.0 in ', 'release 2.0 in '])
      if (name !== 'one') await fleet.cut(name)
      if (name !== 'one') expect(checkBootPartition(disk, fleet.directory, true)).toBe('')
    }
    recorded = await endRecord()
    expect(checkBootPartition(fleet.device('one').disk, fleet.directory, true)).toBe('')
  })

  it('would have been on a whole release after a power cut at every write of that upgrade', () => {
    if (recorded === undefined) throw new Error('the upgrade was not recorded')
    const { counts, chosen, problems } = recorded.judge('systemd-boot', first, next, 2)
    expect(problems).toEqual([])
    // Before the trial was armed, and after.
    for (const id of [first, next]) expect(chosen.get(shortId(id))).toBeGreaterThan(10)
    expect(Math.min(counts.prefix, counts.torn, counts.lost)).toBeGreaterThan(100)
    process.stderr.write(
      `power cuts at ${counts.prefix} writes: ${counts.torn} torn, ${counts.lost} with lost writes\n`,
    )
  })
})
