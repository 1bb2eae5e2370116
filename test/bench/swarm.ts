import type { ImageSet } from '../fleet/build-images.ts'
import type { BenchRow } from './bench.ts'
import { boundOf, describeRace, type Race, raceAgents } from './race.ts'
import { PEER_PROGRAMS, peerSeconds } from './swarm-peers.ts'

const RACE: Race = { peers: 8, megabytes: 200, rateMbit: 100, shared: false, halfSlow: false }
/** Every program runs the first two; the two best of the first run the others. */
const FULL: readonly Race[] = [RACE, { ...RACE, megabytes: 64 }]
const SHAPES: readonly Race[] = [
  { ...RACE, megabytes: 64, peers: 2 },
  { ...RACE, megabytes: 64, peers: 4 },
  { ...RACE, megabytes: 64, peers: 16 },
  { ...RACE, megabytes: 64, peers: 4, shared: true },
  { ...RACE, megabytes: 64, halfSlow: true },
]
const BEST = ['aria2', 'libtorrent']

/**
 * One seed, peers on shaped links, noise, until the last holds a verified copy, start of the programs included. Ours: the
 * seed is a device that holds the release; the agents of the peers start with nothing of it.
 */
export async function benchSwarm(images: ImageSet): Promise<readonly BenchRow[]> {
  return [...(await races(images, FULL, PEER_PROGRAMS)), ...(await races(images, SHAPES, best()))]
}

function best() {
  return PEER_PROGRAMS.filter(({ name }) => BEST.some((wanted) => name.startsWith(wanted)))
}

async function races(images: ImageSet, list: readonly Race[], programs: typeof PEER_PROGRAMS): Promise<BenchRow[]> {
  const rows: BenchRow[] = []
  for (const race of list) {
    const name = `swarm ${describeRace(race)}`
    const ours = await raceAgents(images, race)
    process.stderr.write(
      `  ${name}: flotilla ${ours.seconds.toFixed(1)} s, the seed sent ${ours.copies.toFixed(2)} copies\n`,
    )
    rows.push({
      name: `${name}: copies from the seed`,
      ours: ours.copies,
      peer: null,
      peerName: '',
      unit: '',
      bound: 1,
    })
    for (const program of programs) {
      const peer = await peerSeconds(program, race)
      process.stderr.write(`  ${name}: ${program.name} ${peer.toFixed(1)} s\n`)
      rows.push({ name, ours: ours.seconds, peer, peerName: program.name, unit: 's', bound: boundOf(race) })
    }
  }
  return rows
}
