import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { smallImageSet } from './build-images.ts'
import { publishNoise, untilHolds } from './carried-release.ts'
import { canUseNamespaces, namespaceNetwork } from './network.ts'
import { SimulatedFleet } from './simulated-fleet.ts'

const NAMES = ['a1', 'a2', 'busy']

describe('a link that others use too', () => {
  let fleet: SimulatedFleet | undefined

  afterEach(async () => fleet?.close())

  it('is left to them when round trips rise, and the release arrives all the same', async () => {
    const images = smallImageSet()
    const started = new SimulatedFleet(namespaceNetwork(4, { queueMs: 1_500 }), images)
    fleet = started
    await fleet.init()
    await fleet.release('odroid-xu', '1', images.r1)
    for (const name of ['a1', 'a2']) await fleet.addDevice(name, 'odroid-xu', 'odroid-xu@1')
    await fleet.startAll()
    const id = await publishNoise(fleet, images, 2, 12_000_000)
    const seeding = await fleet.startFlotilla(['seed', 'a1', 'pi-4@2'])
    const yields = (limits: readonly string[]) => limits.some((limit) => /round trips rose by \d+ ms/.test(limit))
    const either = await Promise.any(
      ['a1', 'a2'].map((name) => started.until(name, 'yielding', (status) => yields(status.limits))),
    )
    process.stderr.write(`yields: ${either.limits.join(', ')}\n`)
    for (const name of ['a1', 'a2']) await untilHolds(fleet, name, id)
    for (const name of ['a1', 'a2']) await fleet.until(name, 'unlimited again', (status) => status.limits.length === 0)
    await fleet.end(seeding)
  })
})

describe('a robot that needs the link for itself', () => {
  const images = smallImageSet()
  let fleet: SimulatedFleet

  beforeAll(async () => {
    expect(canUseNamespaces(), 'network namespaces need root').toBe(true)
    fleet = new SimulatedFleet(namespaceNetwork(200), images)
    await fleet.init()
    await fleet.release('pi-4', '1', images.r1)
    for (const name of NAMES) {
      await fleet.addDevice(name, 'pi-4', 'pi-4@1', { trafficFile: join(fleet.directory, `${name}.traffic`) })
    }
    await fleet.startAll()
  })

  afterAll(async () => fleet?.close())

  it('gets no chunk while it says so, hears the news all the same, and catches up afterwards', async () => {
    await fleet.ask('busy', '/limit', 'POST', { reason: 'teleoperation', kibPerSecond: 0, seconds: 600 })
    await fleet.release('pi-4', '2', images.r3)
    const seeding = await fleet.startFlotilla(['seed', 'a1', 'pi-4@2'])
    for (const name of ['a1', 'a2']) await fleet.untilRunning(name, '2')
    await fleet.untilHeard('busy', 'a2', (row) => row.version === '2' && row.state === 'proven')
    const limited = await fleet.status('busy')
    expect(limited).toMatchObject({ fetchedBytes: 0, limits: ['nothing: teleoperation'], next: { version: '2' } })
    expect((await fleet.ask('busy', '/release-limit', 'POST')) as object).toEqual({ limits: 0 })
    await fleet.untilRunning('busy', '2')
    await fleet.end(seeding)
  })

  it('gives no chunk either: the others get what they lack from elsewhere', async () => {
    writeFileSync(join(fleet.directory, 'a1.traffic'), '0\nrecording\n')
    await fleet.until('a1', 'limited', (status) => status.limits.includes('nothing: recording'))
    const served = (await fleet.status('a1')).servedBytes
    await fleet.release('pi-4', '3', images.r2)
    const seeding = await fleet.startFlotilla(['seed', 'a2', 'pi-4@3'])
    for (const name of ['a2', 'busy']) await fleet.untilRunning(name, '3')
    await fleet.end(seeding)
    expect((await fleet.status('a1')).servedBytes).toBe(served)
    expect((await fleet.status('a1')).running?.version).toBe('2')
  })

  it('moves nothing over an interface whose daily budget is used up, and says so', async () => {
    const restart = async (dailyMiB: Readonly<Record<string, number>>) => {
      await fleet.powerOff('busy')
      fleet.configure('busy', { traffic: { dailyMiB } })
      fleet.start('busy')
    }
    await restart({ eth0: 0 })
    await fleet.release('pi-4', '4', images.r1)
    const seeding = await fleet.startFlotilla(['seed', 'a2', 'pi-4@4'])
    await fleet.untilRunning('a2', '4')
    await fleet.untilHeard('busy', 'a2', (row) => row.version === '4' && row.state === 'proven')
    const limits = ['nothing over eth0: its daily budget is used up']
    expect(await fleet.status('busy')).toMatchObject({ fetchedBytes: 0, servedBytes: 0, limits })
    await restart({ eth0: 10_000, wlan0: 0 })
    await fleet.untilRunning('busy', '4')
    await fleet.end(seeding)
  })
})
