import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { ImageSet } from '../fleet/build-images.ts'
import { namespaceNetwork } from '../fleet/network.ts'
import { SimulatedFleet } from '../fleet/simulated-fleet.ts'
import type { BenchRow } from './bench.ts'

/** A node at rest is a hundredth of a core, and one process has one. */
const FLEETS = [
  { size: 10, processes: 1 },
  { size: 50, processes: 1 },
  { size: 200, processes: 2 },
]
/** Longer than a renewal of every record takes at 50, half as long at 200. */
const WATCH_SECONDS = 300

type Measured = {
  readonly bytesPerHour: number
  readonly corePercent: number
  readonly neighbours: number
  readonly toldSeconds: number
}

/** What a device costs the network when nothing happens, and how fast a record reaches all. Many nodes in one process: no peer program does the same. */
export async function benchGossip(images: ImageSet): Promise<readonly BenchRow[]> {
  const fleet = new SimulatedFleet(namespaceNetwork(0), images)
  try {
    await fleet.init()
    await fleet.release('pi-4', '1', images.r1)
    const { directory } = await fleet.addDevice('model', 'pi-4', 'pi-4@1')
    const rows: BenchRow[] = []
    for (const { size, processes } of FLEETS) {
      // A host of its own: its loopback carries nothing else.
      const name = `fleet-of-${size}`
      await fleet.network.addHost(name)
      const program = [process.execPath, '--no-warnings', join(import.meta.dirname, 'quiet-fleet.ts')]
      const measured = await run(fleet, name, [
        ...program,
        fleet.repository,
        join(directory, 'persist'),
        String(size),
        String(WATCH_SECONDS),
        String(processes),
      ])
      process.stderr.write(`  ${size} devices: ${JSON.stringify(measured)}\n`)
      const row = (what: string, ours: number, unit: string): BenchRow => ({
        name: `${size} devices: ${what}`,
        ours,
        peer: null,
        peerName: '',
        unit,
        bound: null,
      })
      rows.push(
        row('sent by each when nothing happens', measured.bytesPerHour / 1e6, 'MB an hour'),
        row('neighbours', measured.neighbours, ''),
        row('processor of each when nothing happens', measured.corePercent, '% of a core'),
        row('a record reaches all after', measured.toldSeconds, 's'),
      )
    }
    return rows
  } finally {
    await fleet.close()
  }
}

async function run(fleet: SimulatedFleet, host: string, command: readonly string[]): Promise<Measured> {
  const [program = '', ...args] = fleet.network.wrapFor(host, command)
  const { stdout } = await promisify(execFile)(program, args, { env: fleet.environment(), maxBuffer: 2 ** 20 })
  return JSON.parse(stdout) as Measured
}
