import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { afterEach, describe, expect, it } from 'vitest'
import { smallImageSet } from './build-images.ts'
import { canUseNamespaces, loopbackNetwork, type Network, namespaceNetwork } from './network.ts'
import { SimulatedFleet } from './simulated-fleet.ts'

const run = promisify(execFile)

describe('devices on a network', () => {
  const images = smallImageSet()
  let fleet: SimulatedFleet | undefined

  afterEach(async () => {
    await fleet?.close()
    fleet = undefined
  })

  /** A fleet of devices of one board on release 1, switched on and connected. */
  async function start(network: Network, names: readonly string[], node?: string): Promise<SimulatedFleet> {
    const started = new SimulatedFleet(network, images, node)
    fleet = started
    await started.init()
    await started.release('pi-4', '1', images.r1)
    for (const name of names) await started.addDevice(name, 'pi-4', 'pi-4@1')
    await started.startAll(names, 60_000)
    return started
  }

  it('a robot that walks between two islands carries the release and the news', async () => {
    expect(canUseNamespaces(), 'network namespaces need root').toBe(true)
    const walk = await start(namespaceNetwork(0), ['west', 'robot', 'east'])
    walk.network.radio.setLink('east', false)
    await walk.until('robot', 'alone with west', (status) => status.peers === 1, 60_000)
    await walk.release('pi-4', '2', images.r3)
    const seeding = await walk.startFlotilla(['seed', 'west', 'pi-4@2'])
    await walk.untilRunning('west', '2')
    await walk.untilRunning('robot', '2')
    await walk.end(seeding)
    await walk.untilHeard('robot', 'west', (row) => row.version === '2' && row.state === 'proven')
    const alone = await walk.until('east', 'alone', (status) => status.peers === 0, 60_000)
    expect(alone.running?.version).toBe('1')

    walk.network.radio.setLink('west', false)
    const backMs = performance.now()
    walk.network.radio.setLink('east', true)
    await walk.until('east', 'connected again', (status) => status.peers > 0, 30_000)
    const reconnectSeconds = (performance.now() - backMs) / 1_000
    process.stderr.write(`reconnected ${reconnectSeconds.toFixed(1)} s after the link came back\n`)
    await walk.untilRunning('east', '2')
    // News from the other island, with its age.
    const seen = await walk.untilHeard('east', 'west', (row) => row.version === '2' && row.state === 'proven')
    expect(seen.ageSeconds).toBeGreaterThan(0)
  })

  it('is visible to avahi-browse as a DNS-SD service, without a default route', async () => {
    expect(canUseNamespaces(), 'network namespaces need root').toBe(true)
    const browse = await start(namespaceNetwork(0), ['solo', 'other'])
    await browse.network.addHost('desk')
    // A private /run: the namespace's own bus and daemon, whatever the machine runs.
    const script = `mount -t tmpfs none /run && mkdir -p /run/dbus /run/avahi-daemon
dbus-daemon --system --fork --print-pid=3 3>/run/bus.pid
avahi-daemon --no-drop-root --no-chroot --no-rlimits & daemon=$!
for n in 1 2 3 4 5 6 7 8 9 10 11 12; do
  sleep 1
  found=$(avahi-browse -rpt _flotilla._tcp 2>/dev/null | grep '^=' | grep 'id=')
  [ $(echo "$found" | grep -c solo) -gt 0 ] && break
done
echo "$found"; kill $daemon; kill $(cat /run/bus.pid)`
    const [command = '', ...args] = browse.network.wrapFor('desk', ['sh', '-c', script])
    const { stdout } = await run(command, args)
    const line = stdout.split('\n').find((text) => text.includes('solo') && text.includes('IPv4'))
    expect(line, stdout).toBeDefined()
    expect(line).toContain(';4848;')
    expect(line).toContain('"fleet=demo"')
  })

  it('finds each other with IPv6 only', async () => {
    expect(canUseNamespaces(), 'network namespaces need root').toBe(true)
    const six = await start(namespaceNetwork(0, { family: 6 }), ['six-1', 'six-2'])
    const peers = (await six.ask('six-1', '/peers')) as { address: string }[]
    expect(peers[0]?.address).toMatch(/^\/ip6\/fd77::/)
  })

  it('upgrades on loopback by static addresses on Node 22, as boards with 32 bits run it', async () => {
    const node22 = process.env['FLOTILLA_NODE_22']
    if (node22 === undefined) throw new Error('FLOTILLA_NODE_22 is not set; run through npm test')
    const old = await start(loopbackNetwork(), ['one', 'two'], node22)
    await old.release('pi-4', '2', images.r3)
    await old.flotilla(['seed', `127.0.0.1:${old.device('one').host.port}`, 'pi-4@2', '--timeout', '120'])
    await old.untilRunning('two', '2')
  })
})
