import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import type { ImageSet } from '../fleet/build-images.ts'
import { publishNoise, untilHolds } from '../fleet/carried-release.ts'
import { namespaceNetwork } from '../fleet/network.ts'
import { SimulatedFleet } from '../fleet/simulated-fleet.ts'
import type { BenchRow } from './bench.ts'

const DEVICES = ['d1', 'd2', 'd3', 'd4']
const BYTES = 32_000_000
/** After a transfer garbage is still there. */
const REST_MS = 3_000
const MINUTES = Number(process.env['FLOTILLA_SOAK_MINUTES'] ?? 10)

/**
 * Release after release through the same agents, for `FLOTILLA_SOAK_MINUTES` (10): whether memory or file descriptors grow.
 * The first rounds warm up; then the middle of the first quarter is compared with that of the last.
 */
export async function benchSoak(images: ImageSet): Promise<readonly BenchRow[]> {
  const fleet = new SimulatedFleet(namespaceNetwork(100), images)
  try {
    await fleet.init()
    await fleet.release('odroid-xu', '1', images.r1)
    for (const name of DEVICES) await fleet.addDevice(name, 'odroid-xu', 'odroid-xu@1')
    await fleet.startAll()
    const samples: { readonly anonymousMiB: number; readonly files: number }[] = []
    const endMs = performance.now() + MINUTES * 60_000
    for (let round = 1; performance.now() < endMs; round += 1) {
      const id = await publishNoise(fleet, images, round, BYTES)
      const laptop = await fleet.startFlotilla(['seed', 'd1', `pi-4@${round}`, '--until', 'first'])
      for (const name of DEVICES) await untilHolds(fleet, name, id)
      await fleet.end(laptop)
      await pause(REST_MS)
      samples.push(await sample(fleet))
      if (round % 20 === 0) {
        const { anonymousMiB, files } = samples.at(-1) ?? { anonymousMiB: 0, files: 0 }
        process.stderr.write(`  round ${round}: ${anonymousMiB.toFixed(1)} MiB anonymous, ${files} files\n`)
      }
    }
    const quarter = Math.max(1, Math.floor((samples.length - 3) / 4))
    const early = samples.slice(3, 3 + quarter)
    const late = samples.slice(-quarter)
    const row = (what: string, of: (one: (typeof samples)[number]) => number, unit: string): BenchRow => ({
      name: `soak, ${MINUTES} min, ${samples.length} releases of ${BYTES / 1e6} MB: ${what}`,
      ours: median(late.map(of)),
      peer: median(early.map(of)),
      peerName: 'the same, early',
      unit,
      bound: null,
    })
    return [
      row('anonymous memory, largest agent', ({ anonymousMiB }) => anonymousMiB, 'MiB'),
      row('open files, most', ({ files }) => files, ''),
    ]
  } finally {
    await fleet.close()
  }
}

async function sample(fleet: SimulatedFleet) {
  const pids = await Promise.all(DEVICES.map(async (name) => (await fleet.status(name)).pid))
  const fields = pids.map((pid) => readFileSync(`/proc/${pid}/status`, 'latin1'))
  const number = (text: string, field: string) => Number(new RegExp(`${field}:\\s+(\\d+)`).exec(text)?.[1] ?? 0)
  return {
    anonymousMiB: Math.max(...fields.map((text) => number(text, 'RssAnon') / 1_024)),
    files: Math.max(...pids.map((pid) => readdirSync(`/proc/${pid}/fd`).length)),
  }
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
}
