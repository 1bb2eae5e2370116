import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { buildImages } from '../fleet/build-images.ts'
import { formatRows } from '../../protocol/terminal/print.ts'
import { benchBackup } from './backup.ts'
import { benchControl } from './control.ts'
import { benchDelta } from './delta.ts'
import { benchGossip } from './gossip.ts'
import { benchLogin } from './login.ts'
import { benchPair } from './pair.ts'
import { benchRest } from './rest.ts'
import { benchSoak } from './soak.ts'
import { benchSwap } from './swap.ts'
import { benchSwarm } from './swarm.ts'

/** One measured comparison. `ratio` = ours / peer, both from this run; below 1 is better. `bound`: what physics allows. */
export type BenchRow = {
  readonly name: string
  readonly ours: number
  readonly peer: number | null
  readonly peerName: string
  readonly unit: string
  readonly bound: number | null
}

const BENCHES = {
  swarm: benchSwarm,
  pair: benchPair,
  control: benchControl,
  gossip: benchGossip,
  delta: benchDelta,
  rest: benchRest,
  login: benchLogin,
  backup: benchBackup,
  swap: benchSwap,
  soak: benchSoak,
} as const

const { values, positionals } = parseArgs({ allowPositionals: true, options: { json: { type: 'string' } } })
const names = positionals.length === 0 ? Object.keys(BENCHES) : positionals
const images = await buildImages((line) => process.stderr.write(`${line}\n`))
const rows: (BenchRow & { ratio: number | null })[] = []
for (const name of names) {
  if (!(name in BENCHES)) {
    process.stderr.write(`bench: no such bench: ${name} (known: ${Object.keys(BENCHES).join(', ')})\n`)
    process.exit(2)
  }
  process.stderr.write(`bench ${name}\n`)
  for (const row of await BENCHES[name as keyof typeof BENCHES](images)) {
    rows.push({ ...row, ratio: row.peer === null ? null : row.ours / row.peer })
  }
}
const number = (value: number | null) => (value === null ? '' : value < 100 ? value.toFixed(2) : value.toFixed(0))
process.stdout.write(
  formatRows(rows, [
    ['BENCH', (row) => row.name],
    ['OURS', (row) => number(row.ours)],
    ['PEER', (row) => number(row.peer)],
    ['WHICH', (row) => row.peerName],
    ['UNIT', (row) => row.unit],
    ['RATIO', (row) => number(row.ratio)],
    ['BOUND', (row) => number(row.bound)],
  ]),
)
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(rows, null, 2)}\n`)
