import { cpSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { smallImageSet } from '../fleet/build-images.ts'
import { canUseNamespaces, namespaceNetwork } from '../fleet/network.ts'
import { SimulatedFleet } from '../fleet/simulated-fleet.ts'

const NAMES = ['a1', 'a2', 'a3']

describe('a fleet whose keys are in several hands', () => {
  const images = smallImageSet()
  let fleet: SimulatedFleet

  beforeAll(async () => {
    expect(canUseNamespaces(), 'network namespaces need root').toBe(true)
    fleet = new SimulatedFleet(namespaceNetwork(100), images)
    await fleet.init()
    await fleet.release('pi-4', '1', images.r1)
    for (const name of NAMES) await fleet.addDevice(name, 'pi-4', 'pi-4@1')
    await fleet.startAll()
  })

  afterAll(async () => fleet?.close())

  async function untilSeen(event: string, code: string): Promise<void> {
    const deadline = performance.now() + 60_000
    for (;;) {
      for (const name of NAMES) {
        const events = await fleet.events(name)
        if (events.some((entry) => entry.event === event && entry.fields['code'] === code)) return
      }
      if (performance.now() > deadline) throw new Error(`nobody reported ${event} ${code}\n${fleet.logTail('a1')}`)
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
  }

  it('keeps what it runs when a copy of the repository signs another release under the same sequence', async () => {
    const copy = join(fleet.directory, 'copy')
    cpSync(fleet.repository, copy, { recursive: true })
    await fleet.release('pi-4', '2', images.r3)
    await fleet.flotilla(['seed', 'a1', 'pi-4@2', '--timeout', '120'])
    const { running } = await fleet.untilRunning('a1', '2')
    // The other copy moved further meanwhile, so that its timestamp is the newer one.
    await fleet.release('odroid-xu', '1', images.r1, ['--repo', copy])
    await fleet.release('pi-4', 'two', images.r4, ['--repo', copy])
    const seeding = await fleet.startFlotilla(['seed', 'a1', 'pi-4@two', '--repo', copy])
    await untilSeen('release-conflict', 'SAME_SEQUENCE')
    await fleet.end(seeding)
    expect((await fleet.status('a1')).running).toEqual(running)
  })

  it('drops a device at once when the policy revokes it, and does not let it back', async () => {
    const copy = join(fleet.directory, 'copy')
    const id = (await fleet.ask('a3', '/status')) as { device: string }
    await fleet.flotilla(['device', 'revoke', id.device, '--repo', copy])
    const seeding = await fleet.startFlotilla(['seed', 'a1', 'pi-4@two', '--repo', copy])
    const deadline = performance.now() + 60_000
    for (;;) {
      const peers = (await fleet.ask('a2', '/peers')) as { id: string }[]
      if (!peers.some((peer) => peer.id === id.device)) break
      if (performance.now() > deadline) throw new Error('the revoked device is still a peer')
      await new Promise((resolve) => setTimeout(resolve, 200))
    }
    await untilSeen('peer-refused', 'REVOKED')
    await fleet.end(seeding)
  })
})
