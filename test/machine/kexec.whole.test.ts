import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { eventsIn, VirtualFleet } from './virtual-fleet.ts'

const STARTED_MS = 240_000
const UPGRADED_MS = 600_000

describe('a machine that starts its trials by kexec', () => {
  let fleet: VirtualFleet
  let first: string

  beforeAll(async () => {
    fleet = new VirtualFleet('grub')
    await fleet.init()
    first = await fleet.release({ version: '1.0' })
    await fleet.addDevice('one', first, { kexec: true })
  })
  afterAll(() => fleet.close())

  const firmware = (console: string) => console.match(/SeaBIOS/g)?.length ?? 0

  it('passes firmware and loader by, is proven, and starts the release by the loader from then on', async () => {
    const next = await fleet.release({ version: '2.0' })
    const machine = fleet.start('one')
    await machine.waitFor(/"event":"started"/, STARTED_MS)
    expect(firmware(machine.console)).toBe(1)
    await fleet.flotilla('seed', fleet.device('one').address, next, '--until', 'first', '--timeout', '600')
    await fleet.untilTold('one', 'proven', next, UPGRADED_MS)
    const told = eventsIn(machine.console).filter(({ event }) => event.startsWith('kexec'))
    expect(told).toEqual([expect.objectContaining({ event: 'kexec', release: next })])
    expect(machine.console).toContain('restart by kexec')
    expect(firmware(machine.console)).toBe(1)
    expect(machine.console.match(/^release \S+ in /gm)).toEqual(['release 1.0 in ', 'release 2.0 in '])
    await fleet.cut('one')
    const again = fleet.start('one')
    await again.waitFor(/"event":"started"/, STARTED_MS)
    expect(again.console).toContain('release 2.0 in ')
    await fleet.cut('one')
  })

  it('falls back by the loader, with the tries counted', async () => {
    const bad = await fleet.release({ version: '3.0', check: 'exit 1' }, 1)
    const machine = fleet.start('one')
    await machine.waitFor(/"event":"started"/, STARTED_MS)
    void fleet
      .flotilla('seed', fleet.device('one').address, bad, '--until', 'first', '--timeout', '300')
      .catch(() => {})
    await fleet.untilTold('one', 'fell-back', bad, UPGRADED_MS)
    expect(machine.console).toContain('restart by kexec')
    await machine.waitFor(
      (console) => /release 2.0 in [^]*release 3.0 in [^]*release 2.0 in /.test(console),
      STARTED_MS,
    )
    expect(firmware(machine.console)).toBe(2)
  })
})
