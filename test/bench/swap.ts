import { RecordedUpgrade } from '../machine/recorded-upgrade.ts'
import { eventsIn, VirtualFleet } from '../machine/virtual-fleet.ts'
import type { BenchRow } from './bench.ts'

const FAMILY = 'uboot'
const PATIENCE_MS = 900_000

/**
 * One upgrade of a virtual machine with a real loader, under emulation: how long it takes from "all bytes are here" to "proven", how much
 * of that is not the machine's own reboot, and what it writes. The peer of the bytes is a writer of whole images: each byte of the
 * release once.
 */
export async function benchSwap(): Promise<readonly BenchRow[]> {
  const fleet = new VirtualFleet(FAMILY)
  try {
    await fleet.init()
    const first = await fleet.release({ version: '1.0' })
    await fleet.addDevice('one', first)
    const machine = fleet.start('one')
    await machine.waitFor(/"event":"started"/, PATIENCE_MS)
    await fleet.cut('one')
    const next = await fleet.release({ version: '2.0', payloadMiB: 8 })
    const end = RecordedUpgrade.begin(fleet, 'one')
    const upgraded = fleet.device('one').machine
    if (upgraded === undefined) throw new Error('it was switched on')
    await upgraded.waitFor(/"event":"started"/, PATIENCE_MS)
    await fleet.flotilla('seed', fleet.device('one').address, next, '--until', 'first', '--timeout', '900')
    await fleet.untilTold('one', 'proven', next, PATIENCE_MS)
    const told = eventsIn(upgraded.console)
    const at = (event: string) => {
      const found = told.findLast((each) => each.event === event && (each.release === next || event === 'reboot'))
      if (found === undefined) throw new Error(`${event} was not told`)
      return Date.parse(found.at)
    }
    const show = JSON.parse(await fleet.flotilla('release', 'show', next, '--json')) as {
      artifacts: { lengthBytes: number }[]
    }
    const releaseBytes = show.artifacts.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)
    const { boot, rest } = (await end()).bytesWritten()
    const seconds = (from: string, to: string) => (at(to) - at(from)) / 1_000
    const row = (name: string, ours: number, unit: string, peer: number | null = null, peerName = ''): BenchRow => ({
      name: `swap: ${name}`,
      ours,
      peer,
      peerName,
      unit,
      bound: null,
    })
    const ours = seconds('fetched', 'reboot') + seconds('trial', 'proven')
    return [
      row('all bytes here to proven', seconds('fetched', 'proven'), 's'),
      row('of it not the reboot', ours, 's', seconds('fetched', 'proven'), 'all of it'),
      row('written to armed', seconds('written', 'armed'), 's'),
      row('written to the boot partition', boot / 2 ** 20, 'MiB', releaseBytes / 2 ** 20, 'release'),
      row('written to persist', rest / 2 ** 20, 'MiB', releaseBytes / 2 ** 20, 'release'),
    ]
  } finally {
    await fleet.close()
  }
}
