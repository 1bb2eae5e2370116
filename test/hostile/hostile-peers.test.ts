import { cpSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { imageSet } from '../fleet/build-images.ts'
import { canUseNamespaces, namespaceNetwork } from '../fleet/network.ts'
import { SimulatedFleet } from '../fleet/simulated-fleet.ts'

const NAMES = ['a1', 'a2', 'a3']

describe('a fleet with hostile peers in it', () => {
  const images = imageSet()
  let fleet: SimulatedFleet
  let addresses: string[]

  beforeAll(async () => {
    expect(canUseNamespaces(), 'network namespaces need root').toBe(true)
    fleet = new SimulatedFleet(namespaceNetwork(100), images)
    await fleet.init()
    await fleet.release('pi-4', '1', images.r1)
    for (const name of NAMES) await fleet.addDevice(name, 'pi-4', 'pi-4@1')
    await fleet.startAll()
    addresses = NAMES.map((name) => `/ip4/${fleet.device(name).host.address}/tcp/4848`)
  })

  afterAll(async () => fleet?.close())

  async function attack(mode: string, repository: string): Promise<void> {
    const program = join(import.meta.dirname, 'attacker.ts')
    await fleet.startProgram(mode, [process.execPath, '--no-warnings', program, mode, repository, ...addresses])
  }

  async function seenBySomebody(event: string, code: string): Promise<boolean> {
    for (const name of NAMES) {
      const events = await fleet.events(name)
      if (events.some((entry) => entry.event === event && entry.fields['code'] === code)) return true
    }
    return false
  }

  async function untilSeen(event: string, code: string): Promise<void> {
    const deadline = performance.now() + 60_000
    while (!(await seenBySomebody(event, code))) {
      if (performance.now() > deadline) throw new Error(`nobody reported ${event} ${code}\n${fleet.logTail('a1')}`)
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
  }

  it('refuses a stranger, superseded metadata and altered metadata, each with its code', async () => {
    const old = join(fleet.directory, 'old-repo')
    cpSync(fleet.repository, old, { recursive: true })
    await fleet.release('pi-4', '2', images.r3)
    await fleet.flotilla(['seed', 'a1', 'pi-4@2', '--timeout', '120'])
    await attack('stranger', fleet.repository)
    await attack('old-metadata', old)
    await attack('unsigned-metadata', fleet.repository)
    await untilSeen('peer-refused', 'NOT_A_MEMBER')
    await untilSeen('metadata-refused', 'ROLLBACK')
    await untilSeen('metadata-refused', 'SIGNATURE')
    for (const name of NAMES) expect((await fleet.untilRunning(name, '2')).trust.timestamp).toBeLessThan(999)
  })

  it('bans a member that sends wrong chunks, and finishes without it', async () => {
    await fleet.release('pi-4', '3', images.r4)
    await attack('wrong-chunks', fleet.repository)
    await fleet.until('a2', 'joined by it', (status) => status.peers >= 3)
    await fleet.flotilla(['seed', 'a1', 'pi-4@3', '--timeout', '120'])
    for (const name of NAMES) {
      const status = await fleet.untilRunning(name, '3')
      expect(status.failed).toEqual([])
    }
    await untilSeen('peer-refused', 'BAD_CHUNKS')
  })

  it('drops a device at once when the policy revokes it, and does not let it back', async () => {
    const id = (await fleet.ask('a3', '/status')) as { device: string }
    await fleet.flotilla(['device', 'revoke', id.device])
    await fleet.flotilla(['seed', 'a1', 'pi-4@3', '--until', 'first', '--timeout', '60'])
    await fleet.until('a1', 'without it', (status) => status.trust.timestamp > 0)
    const deadline = performance.now() + 60_000
    for (;;) {
      const peers = (await fleet.ask('a2', '/peers')) as { id: string }[]
      if (!peers.some((peer) => peer.id === id.device)) break
      if (performance.now() > deadline) throw new Error('the revoked device is still a peer')
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
    await untilSeen('peer-refused', 'REVOKED')
  })
})
