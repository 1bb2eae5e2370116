import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { formatRows } from '../../protocol/terminal/print.ts'
import { type SwarmResult, type SwarmScenario, SwarmSimulator } from './swarm-simulator.ts'

/** 100 Mbit/s in bytes per millisecond. */
export const RATE = 12_500

/** A switch, full or sparse; 64 KiB chunks. */
export function scenario(change: Partial<SwarmScenario>): SwarmScenario {
  return {
    seed: 1,
    devices: 9,
    chunks: 256,
    opens: 8,
    latencyMs: 1,
    rate: () => RATE,
    sharedRate: 0,
    wired: () => false,
    churnEveryMs: 0,
    awayMs: 0,
    ...change,
  }
}

/** The seed is on the wire behind an access point of the same rate, the others are its stations. */
export const STATIONS = { opens: 0, sharedRate: RATE, wired: (device: number) => device === 0 } as const

/** What is run for the table in the repository: name and scenario. */
export const SCENARIOS: readonly (readonly [string, Partial<SwarmScenario>])[] = [
  ['1 + 8, all joined', { opens: 0 }],
  ['1 + 8, 1024 chunks', { opens: 0, chunks: 1_024 }],
  ['1 + 30, 8 links each', { devices: 31 }],
  ['1 + 100, 8 links each', { devices: 101 }],
  ['1 + 100, 4 links each', { devices: 101, opens: 4 }],
  ['1 + 300, 8 links each', { devices: 301 }],
  ['1 + 300, 20 ms away', { devices: 301, latencyMs: 20 }],
  [
    '1 + 100, every second one four times slower',
    { devices: 101, rate: (device) => (device % 2 === 1 ? RATE / 4 : RATE) },
  ],
  ['1 + 100, one cut off every 0.2 s for 2 s', { devices: 101, churnEveryMs: 200, awayMs: 2_000 }],
  ['1 + 4 stations of an access point', { devices: 5, opens: 0, sharedRate: RATE }],
  ['1 wired + 8 stations', { ...STATIONS }],
  ['1 wired + 24 stations', { ...STATIONS, devices: 25 }],
  ['1 wired + 8 stations, wire of 5 Mbit/s', { ...STATIONS, rate: (device) => (device === 0 ? RATE / 20 : RATE) }],
  ['4 wired + 8 stations', { ...STATIONS, devices: 12, wired: (device) => device < 4 }],
]
const SEEDS = [1, 2, 3]

/** Runs every scenario with every seed; the worst of the seeds counts. */
function table(): (SwarmResult & { name: string; ratio: number })[] {
  return SCENARIOS.map(([name, change]) => {
    const results = SEEDS.map((seed) => new SwarmSimulator(scenario({ ...change, seed })).run())
    const worst = results.reduce((a, b) => (b.lastMs > a.lastMs ? b : a))
    process.stderr.write(`${name}: ${(worst.lastMs / worst.boundMs).toFixed(2)}\n`)
    return { name, ...worst, ratio: worst.lastMs / worst.boundMs }
  })
}

if (import.meta.main) {
  const rows = table()
  const text = formatRows(rows, [
    ['SWARM', (row) => row.name],
    ['LAST', (row) => `${(row.lastMs / 1_000).toFixed(2)} s`],
    ['BOUND', (row) => `${(row.boundMs / 1_000).toFixed(2)} s`],
    ['RATIO', (row) => row.ratio.toFixed(2)],
    ['MEDIAN', (row) => `${(row.medianMs / 1_000).toFixed(2)} s`],
    ['FIRST', (row) => `${(row.firstMs / 1_000).toFixed(2)} s`],
    ['SEED SENT', (row) => row.seedCopies.toFixed(2)],
    ['WASTED', (row) => `${(row.wasted * 100).toFixed(1)} %`],
  ])
  process.stdout.write(text)
  writeFileSync(join(import.meta.dirname, 'swarm-table.txt'), text)
}
