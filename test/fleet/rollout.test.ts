import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { smallImageSet } from './build-images.ts'
import { canUseNamespaces, namespaceNetwork } from './network.ts'
import { SimulatedFleet } from './simulated-fleet.ts'

const ALL = ['test-1', 'hall-1', 'hall-2']

/** Three devices: one for tests, two of one cell. What the simulator shows with many is done here with real agents. */
describe('a release with a rollout plan', () => {
  const images = smallImageSet()
  let fleet: SimulatedFleet

  beforeAll(async () => {
    expect(canUseNamespaces(), 'network namespaces need root').toBe(true)
    fleet = new SimulatedFleet(namespaceNetwork(200), images)
    await fleet.init()
    await fleet.release('pi-4', '1', images.r1)
    await fleet.addDevice('test-1', 'pi-4', 'pi-4@1', { labels: { role: 'test' } })
    for (const name of ['hall-1', 'hall-2']) await fleet.addDevice(name, 'pi-4', 'pi-4@1', { labels: { cell: 'hall' } })
    await fleet.startAll()
  })

  afterAll(async () => fleet?.close())

  const eventAt = async (name: string, event: string, release: string): Promise<number> =>
    Date.parse(
      (await fleet.events(name)).findLast((one) => one.event === event && one.fields['release'] === release)?.at ?? '',
    )

  it('is booted by the canary first, then by the others when it has soaked, one of the cell after the other', async () => {
    const plan = ['--canary', 'role=test', '--soak', '3', '--reboots-per-cell', '1']
    const id = await fleet.release('pi-4', '2', images.r2, plan)
    await fleet.flotilla(['seed', 'hall-1', 'pi-4@2', '--timeout', '120'])
    for (const name of ALL) await fleet.untilRunning(name, '2')
    const proven = await eventAt('test-1', 'proven', id)
    const armed = await Promise.all(['hall-1', 'hall-2'].map((name) => eventAt(name, 'armed', id)))
    const others = await Promise.all(['hall-1', 'hall-2'].map((name) => eventAt(name, 'proven', id)))
    expect(Math.min(...armed)).toBeGreaterThanOrEqual(proven + 3_000)
    expect(Math.max(...armed), 'the second waits for the first').toBeGreaterThanOrEqual(Math.min(...others))
  })

  it('waits with its reason shown, travels meanwhile, and is disarmed everywhere by a halt that outlives a restart', async () => {
    const id = await fleet.release('pi-4', '3', images.r3, ['--canary', 'role=nobody-has-this', '--soak', '1'])
    await fleet.flotilla(['seed', 'test-1', 'pi-4@3', '--until', 'first', '--timeout', '120'])
    for (const name of ALL) {
      const waiting = await fleet.until(
        name,
        'waiting',
        (status) => status.state === 'written' && status.waitingFor !== '',
      )
      expect(waiting.waitingFor).toContain('wave 1 is not open: nothing heard of wave 0')
    }
    await fleet.untilHeard('test-1', 'hall-2', (row) => row.reason.startsWith('wave 1 is not open'))
    await fleet.flotilla(['release', 'halt', 'pi-4@3', '--reason', 'gripper drifts', '--yes', '--tell', 'hall-1'])
    for (const name of ALL) {
      const halted = await fleet.until(name, 'halted', (status) => status.halted.length > 0)
      expect(halted).toMatchObject({ state: 'proven', next: null, halted: [{ id, reason: 'gripper drifts' }] })
    }
    expect((await fleet.tryFlotilla(['seed', 'test-1', 'pi-4@3'])).stderr).toContain('it is halted (gripper drifts)')
    await fleet.killAgent('hall-2')
    const again = await fleet.until('hall-2', 'up again', (status) => status.peers === 2)
    expect(again).toMatchObject({ next: null, halted: [{ id, reason: 'gripper drifts' }] })
    await fleet.untilHeard('test-1', 'hall-2', (row) => row.haltedId === id)
  })

  it('is tried again under a higher sequence only, at once where the operator opened its waves', async () => {
    await fleet.release('pi-4', '4', images.r3, ['--canary', 'role=nobody-has-this'])
    await fleet.flotilla(['release', 'open', 'pi-4@4', '--yes'])
    await fleet.flotilla(['seed', 'test-1', 'pi-4@4', '--timeout', '120'])
    for (const name of ALL) await fleet.untilRunning(name, '4')
  })

  it('is left again by every device when it is recalled', async () => {
    const halt = ['release', 'halt', 'pi-4@4', '--reason', 'melts', '--recall', '--yes']
    await fleet.flotilla([...halt, '--tell', 'hall-2'])
    for (const name of ALL) {
      const back = await fleet.until(name, 'back', (status) => status.running?.version === '2')
      expect(back.failed.at(-1)).toMatchObject({ version: '4', reason: 'recalled: melts' })
    }
  })

  it('is halted by itself when it fails on too many', async () => {
    const plan = ['--canary', 'role=test', '--deadline', '4', '--tries', '1', '--halt-after', '1']
    const id = await fleet.release('pi-4', '5-bad', images.bad, plan)
    const seeding = await fleet.tryFlotilla(['seed', 'test-1', 'pi-4@5-bad', '--timeout', '120'])
    expect(seeding.code).toBe(7)
    for (const name of ['hall-1', 'hall-2']) {
      const status = await fleet.until(name, 'halted', (found) => found.halted.some((halted) => halted.id === id))
      expect(status.halted.at(-1)?.reason).toBe('1 of 1 devices that tried it fell back')
      expect(status.failed.map((failed) => failed.version)).not.toContain('5-bad')
    }
  })

  it('is reached over its stepping stone by a device that is behind it', async () => {
    // Version 6 may only be booted from 2 on, the device that joins has 1.
    await fleet.release('pi-4', '6', images.r2, ['--from', 'pi-4@2'])
    await fleet.addDevice('late', 'pi-4', 'pi-4@1')
    fleet.start('late')
    await fleet.until('late', 'meshed', (status) => status.peers > 0)
    const laptop = await fleet.startFlotilla(['seed', 'late', 'pi-4@6'])
    await fleet.untilRunning('late', '6')
    await fleet.end(laptop)
    const proven = (await fleet.events('late'))
      .filter((event) => event.event === 'proven')
      .map((event) => event.fields['release'])
    expect(proven).toHaveLength(2)
  })
})
