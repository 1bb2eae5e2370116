import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeAll, describe, expect, it } from 'vitest'
import { smallImageSet } from './build-images.ts'
import { percentHeld, publishNoise, untilHolds } from './carried-release.ts'
import { canUseNamespaces, type HostOptions, type Network, namespaceNetwork } from './network.ts'
import { SimulatedFleet } from './simulated-fleet.ts'

const BYTES = 24_000_000

describe('a fleet on bad radio', () => {
  const images = smallImageSet()
  let fleet: SimulatedFleet

  beforeAll(() => {
    expect(canUseNamespaces(), 'network namespaces need root').toBe(true)
  })

  afterEach(async () => fleet?.close())

  /** Devices that carry releases of another board; switched on, not waited for. */
  async function start(
    network: Network,
    names: readonly string[],
    settings: (name: string) => Readonly<Record<string, unknown>> = () => ({}),
    host: (name: string) => HostOptions = () => ({}),
  ): Promise<void> {
    fleet = new SimulatedFleet(network, images)
    await fleet.init()
    await fleet.release('odroid-xu', '1', images.r1)
    for (const name of names) await fleet.addDevice(name, 'odroid-xu', 'odroid-xu@1', settings(name), host(name))
    for (const name of names) fleet.start(name)
  }

  const untilPeers = (name: string, count: number) =>
    fleet.until(name, `connected to ${count}`, (status) => status.peers === count, 60_000)

  async function seed(name: string, version: number, bytes = BYTES): Promise<string> {
    const id = await publishNoise(fleet, images, version, bytes)
    // By address: not every network here carries names.
    await fleet.startFlotilla(['seed', `${fleet.device(name).host.address}:4848`, `pi-4@${version}`])
    return id
  }

  it('cut in two, each half goes on alone, and healed they hold the same', async () => {
    await start(namespaceNetwork(100), ['a1', 'a2', 'b1', 'b2'])
    for (const name of ['a1', 'a2', 'b1', 'b2']) await untilPeers(name, 3)
    for (const name of ['b1', 'b2']) fleet.network.radio.setIsland(name, 1)
    for (const name of ['a1', 'b1']) await untilPeers(name, 1)
    const id = await seed('a1', 2)
    await untilHolds(fleet, 'a2', id)
    for (const name of ['b1', 'b2']) expect(await percentHeld(fleet, name, id)).toBe(0)
    for (const name of ['b1', 'b2']) fleet.network.radio.setIsland(name, 0)
    for (const name of ['b1', 'b2']) await untilHolds(fleet, name, id)
    const trust = (await fleet.status('a1')).trust.timestamp
    for (const name of ['b1', 'b2']) expect((await fleet.status(name)).trust.timestamp).toBe(trust)
  })

  it('stations that an access point keeps apart get it through the one that all reach', async () => {
    await start(namespaceNetwork(100), ['wired', 's1', 's2'])
    await untilPeers('wired', 2)
    for (const name of ['s1', 's2']) fleet.network.radio.isolate(name)
    for (const name of ['s1', 's2']) await untilPeers(name, 1)
    const id = await seed('s1', 2)
    await untilHolds(fleet, 's2', id)
    expect((await fleet.status('wired')).servedBytes).toBeGreaterThanOrEqual(BYTES)
  })

  it('stations leave to a wired device what it holds, and get it from each other once it is gone', async () => {
    const stations = ['s1', 's2', 's3']
    const settings = (name: string) => (name === 'wired' ? {} : { radios: ['eth0'] })
    await start(namespaceNetwork(100, { shared: true }), ['wired', ...stations], settings)
    for (const name of ['wired', ...stations]) await untilPeers(name, 3)
    const peers = (await fleet.ask('s1', '/peers')) as { name: string; radioHops: number }[]
    expect(Object.fromEntries(peers.map(({ name, radioHops }) => [name, radioHops]))).toEqual({
      wired: 1,
      s2: 2,
      s3: 2,
    })
    const id = await seed('wired', 2)
    for (const name of stations) await untilHolds(fleet, name, id)
    const served = await Promise.all(stations.map(async (name) => (await fleet.status(name)).servedBytes))
    expect(served.reduce((sum, bytes) => sum + bytes)).toBeLessThan(BYTES / 10)
    await fleet.powerOff('wired')
    await fleet.addDevice('late', 'odroid-xu', 'odroid-xu@1', { radios: ['eth0'] })
    fleet.start('late')
    await untilHolds(fleet, 'late', id)
  })

  it('goes on where it was when an address changes in the middle', async () => {
    await start(namespaceNetwork(40), ['a1', 'mover'])
    await untilPeers('mover', 1)
    const id = await seed('a1', 2)
    await untilHolds(fleet, 'mover', id, { percent: 20, pollMs: 10 })
    fleet.network.radio.setAddress('mover', '10.77.0.66')
    expect(await percentHeld(fleet, 'mover', id)).toBeLessThan(90) // in the middle
    await untilHolds(fleet, 'mover', id)
    const peers = (await fleet.ask('a1', '/peers')) as { name: string; address: string }[]
    expect(peers.find((peer) => peer.name === 'mover')?.address).toContain('10.77.0.66')
    // What was here was not fetched again.
    expect((await fleet.status('mover')).fetchedBytes).toBeLessThan(BYTES * 1.3)
  })

  it('finds each other over a second interface among malformed records, and without multicast through one address', async () => {
    const network = namespaceNetwork(100)
    const decoy = (name: string) => ({ decoy: name === 'two-legs' })
    await start(network, ['a1', 'two-legs'], undefined, decoy)
    const { address } = await network.addHost('babbler')
    const babbler = [process.execPath, '--no-warnings', join(import.meta.dirname, 'babbler.ts'), address, 'demo']
    fleet.startProgramOn('babbler', babbler)
    for (const name of ['a1', 'two-legs']) await untilPeers(name, 1)
    network.radio.dropMulticast()
    await fleet.addDevice('late', 'odroid-xu', 'odroid-xu@1', {
      discovery: false,
      peers: [`/ip4/${fleet.device('a1').host.address}/tcp/4848`],
    })
    fleet.start('late')
    // Told by the one peer of whom it knew.
    await untilPeers('late', 2)
    const id = await seed('two-legs', 2)
    await untilHolds(fleet, 'late', id)
    expect(readFileSync(join(fleet.directory, 'babbler.log'), 'utf8')).toMatch(/sent [1-9]\d\d+/)
  })

  it('completes through a path that is late, reorders connections and resets them again and again', async () => {
    const network = namespaceNetwork(0)
    await start(network, ['near', 'far'], () => ({ discovery: false }))
    const path = await network.addHost('path')
    network.radio.setIsland('far', 1)
    const beyond = network.radio.bridgeTo('path', 1, 'far')
    const [near, far] = ['near', 'far'].map((name) => fleet.device(name).host.address)
    const program = join(import.meta.dirname, 'bad-path.ts')
    const routes = [`${path.address}=${far}`, `${beyond}=${near}`]
    fleet.startProgramOn('path', [process.execPath, '--no-warnings', program, '40', '6000000', ...routes])
    await fleet.powerOff('near')
    fleet.configure('near', { peers: [`/ip4/${path.address}/tcp/4848`] })
    fleet.start('near')
    await untilPeers('near', 1)
    const id = await seed('near', 2)
    await untilHolds(fleet, 'far', id)
    const lines = readFileSync(join(fleet.directory, 'path.log'), 'utf8').trim().split('\n')
    const done = JSON.parse(lines.at(-1)?.slice(5) ?? '{}') as { cuts: number; bytes: number }
    expect(done.cuts).toBeGreaterThan(2)
    expect(done.bytes).toBeLessThan(BYTES * 1.5)
    process.stderr.write(`path: ${JSON.stringify(done)} for ${BYTES} bytes\n`)
  })

  it('shares a medium of 20 Mbit/s that loses two frames of a hundred', async () => {
    const network = namespaceNetwork(20, { shared: true })
    const names = ['a1', 'a2', 'a3', 'a4']
    await start(network, names)
    for (const name of names) await untilPeers(name, 3)
    network.radio.loseFrames(2)
    const ping = ['ping', '-q', '-c', '300', '-i', '0.005', fleet.device('a2').host.address]
    const [command = '', ...args] = network.wrapFor('a1', ping)
    expect(execFileSync(command, args, { encoding: 'utf8' })).toMatch(/ [1-9][\d.]*% packet loss/)
    const id = await seed('a1', 2, 6_000_000)
    for (const name of names) await untilHolds(fleet, name, id)
  })
})
