import { publishNoise, untilHolds } from '../fleet/carried-release.ts'
import type { ImageSet } from '../fleet/build-images.ts'
import { type HostOptions, namespaceNetwork } from '../fleet/network.ts'
import { SimulatedFleet } from '../fleet/simulated-fleet.ts'

/** One seed that holds so much noise, peers that hold nothing of it. */
export type Race = {
  readonly peers: number
  readonly megabytes: number
  /** Of each link in both directions, or of the medium that all share. */
  readonly rateMbit: number
  readonly shared: boolean
  /** Every other peer has a link that is four times slower. */
  readonly halfSlow: boolean
}

export function hostOptions({ rateMbit, halfSlow }: Race, peer: number): HostOptions {
  return halfSlow && peer % 2 === 1 ? { rateMbit: rateMbit / 4 } : {}
}

/** Seconds below which no program can be: every peer receives every byte, on a shared medium one after another. */
export function boundOf({ peers, megabytes, rateMbit, shared, halfSlow }: Race): number {
  const seconds = (megabytes * 8) / (halfSlow ? rateMbit / 4 : rateMbit)
  return shared ? seconds * peers : seconds
}

export function describeRace({ peers, megabytes, rateMbit, shared, halfSlow }: Race): string {
  return `1 to ${peers}, ${megabytes} MB, ${shared ? 'shared ' : ''}${rateMbit} Mbit/s${halfSlow ? ', half at a quarter' : ''}`
}

/** What our agents did. @property copies - how often the seed sent its bytes */
export type OurRace = { readonly seconds: number; readonly copies: number }

/**
 * Our side of a race: from the start of the peers' agents until the last holds the release. Couriers of another board carry it:
 * the same engine, without the reboot that only our side would pay for.
 */
export async function raceAgents(images: ImageSet, race: Race): Promise<OurRace> {
  const fleet = new SimulatedFleet(namespaceNetwork(race.rateMbit, { shared: race.shared }), images)
  try {
    await fleet.init()
    await fleet.release('odroid-xu', '1', images.r1)
    const names = Array.from({ length: race.peers }, (_, at) => `p${at}`)
    for (const [at, name] of names.entries())
      await fleet.addDevice(name, 'odroid-xu', 'odroid-xu@1', {}, hostOptions(race, at))
    await fleet.addDevice('seed', 'odroid-xu', 'odroid-xu@1')
    fleet.start('seed')
    await fleet.until('seed', 'up', () => true)
    const id = await publishNoise(fleet, images, 2, race.megabytes * 1_000_000)
    const laptop = await fleet.startFlotilla(['seed', 'seed', 'pi-4@2', '--until', 'first', '--timeout', '120'])
    await untilHolds(fleet, 'seed', id)
    await fleet.end(laptop)
    const startedMs = performance.now()
    for (const name of names) fleet.start(name)
    // Looked at rarely: it takes the cores from the racers.
    for (const name of names) await untilHolds(fleet, name, id, { timeoutMs: 600_000, pollMs: 200 })
    const seconds = (performance.now() - startedMs) / 1_000
    const { servedBytes } = await fleet.status('seed')
    return { seconds, copies: servedBytes / (race.megabytes * 1_000_000) }
  } finally {
    await fleet.close()
  }
}
