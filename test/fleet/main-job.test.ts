import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { imageSet } from './build-images.ts'
import { canUseNamespaces, namespaceNetwork } from './network.ts'
import { SimulatedFleet } from './simulated-fleet.ts'

const OURS = ['a1', 'a2', 'a3']
const THEIRS = ['b1', 'b2']

/** One fleet lives through all of this, as a real one would: five devices, two boards, 100 Mbit/s links, no way out. */
describe('a fleet of five devices', () => {
  const images = imageSet()
  let fleet: SimulatedFleet

  beforeAll(async () => {
    expect(canUseNamespaces(), 'network namespaces need root').toBe(true)
    fleet = new SimulatedFleet(namespaceNetwork(100), images)
    await fleet.init()
    await fleet.release('pi-4', '1', images.r1)
    await fleet.release('odroid-xu', '1', images.r1)
    for (const name of OURS) await fleet.addDevice(name, 'pi-4', 'pi-4@1')
    for (const name of THEIRS) await fleet.addDevice(name, 'odroid-xu', 'odroid-xu@1')
    await fleet.addDevice('late', 'pi-4', 'pi-4@1')
    await fleet.startAll([...OURS, ...THEIRS])
  })

  afterAll(async () => fleet?.close())

  async function changedBytes(from: string, to: string): Promise<number> {
    const { stdout } = await fleet.flotilla(['release', 'diff', from, to, '--json'])
    const rows = JSON.parse(stdout) as { name: string; fetchBytes: number }[]
    return rows.find((row) => row.name === 'sum')?.fetchBytes ?? 0
  }

  it('upgrades every device of the board from one seeded device, and the other board carries without installing', async () => {
    const id = await fleet.release('pi-4', '2', images.r2)
    const changed = await changedBytes('pi-4@1', 'pi-4@2')
    const seeding = await fleet.flotilla(['seed', 'a1', 'pi-4@2', '--timeout', '120'])
    process.stderr.write(`${seeding.stderr}\n`)
    for (const name of OURS) {
      const status = await fleet.untilRunning(name, '2')
      expect(status.slot).toBe(id.slice(0, 16))
      expect(status.goodSlot).toBe(status.slot)
    }
    for (const name of THEIRS) {
      const status = await fleet.until(name, 'carrying', () => true)
      expect(status.running?.version).toBe('1')
      const releases = (await fleet.ask(name, '/releases')) as { version: string; where: string; percent: number }[]
      expect(releases).toContainEqual(expect.objectContaining({ version: '2', where: 'carried', percent: 100 }))
    }
    for (const name of [...OURS, ...THEIRS]) {
      const fetched = await fetchedSinceRelease(name, '2')
      expect(fetched, `${name} fetched ${fetched} of ${changed} changed bytes`).toBeLessThan(changed * 1.2)
    }
    for (const name of OURS) await fleet.untilHeard('b1', name, (row) => row.version === '2' && row.state === 'proven')
  })

  /** Bytes fetched for a release: counted by the agent over its restarts, told in the event that ends the fetching. */
  async function fetchedSinceRelease(name: string, version: string): Promise<number> {
    const events = await fleet.events(name)
    const written = events.findLast((event) => event.event === 'fetched' && event.fields['version'] === version)
    return Number(written?.fields['bytes'] ?? Number.NaN)
  }

  it('completes from the union when the laptop leaves at 60 %, and when it leaves at 100 %', async () => {
    await fleet.release('pi-4', '3', images.r3)
    const changed = await changedBytes('pi-4@2', 'pi-4@3')
    for (const name of [...OURS, ...THEIRS]) fleet.network.radio.setLink(name, false)
    fleet.network.radio.setLink('a2', true)
    const laptop = await fleet.startFlotilla(['seed', 'a2', 'pi-4@3'])
    await fleet.until('a2', '60 % there', (status) => status.fetchedBytes > changed * 0.6)
    await fleet.end(laptop)
    const left = await fleet.status('a2')
    expect(left.next?.version).toBe('3')
    expect(left.fetchedBytes).toBeLessThan(changed)

    for (const name of [...OURS, ...THEIRS]) fleet.network.radio.setLink(name, true)
    await fleet.flotilla(['seed', 'b1', 'pi-4@3', '--until', 'first', '--timeout', '120'])
    for (const name of OURS) await fleet.untilRunning(name, '3')
  })

  it('finishes although agents are killed at random moments while they fetch, write and try', async () => {
    await fleet.release('pi-4', '4', images.r4, ['--tries', '9'])
    const laptop = await fleet.startFlotilla(['seed', 'a1', 'pi-4@4'])
    let kills = 0
    const phases = new Set<string>()
    for (let round = 0; round < 60 && kills < 24; round += 1) {
      const name = OURS[round % OURS.length] ?? 'a1'
      const status = await fleet.status(name).catch(() => undefined)
      if (status !== undefined && (status.state !== 'proven' || kills < 6) && (await fleet.killAgent(name))) {
        kills += 1
        phases.add(status.state)
      }
      await new Promise((resolve) => setTimeout(resolve, 150 + ((round * 389) % 900)))
    }
    // It may be through; what it may not is give up on a device because that was started anew.
    expect(laptop.exitCode ?? 0, fleet.logTail('operator')).toBe(0)
    for (const name of OURS) await fleet.untilRunning(name, '4', 180_000)
    await fleet.end(laptop)
    process.stderr.write(`kills: ${kills}, in the states ${[...phases].join(', ')}\n`)
    expect(kills).toBeGreaterThanOrEqual(12)
    expect(phases.has('fetching')).toBe(true)
  })

  it('falls back from a release whose health check fails, on every device that tries it, and tells why', async () => {
    const id = await fleet.release('pi-4', '5-bad', images.bad, ['--deadline', '4', '--tries', '2'])
    const seeding = await fleet.tryFlotilla(['seed', 'a1', 'pi-4@5-bad', '--timeout', '120'])
    expect(seeding.code).toBe(7)
    expect(seeding.stderr).toContain('fell back')
    for (const name of OURS) {
      const status = await fleet.until(name, 'fallen back', (found) => found.state === 'fell-back')
      expect(status.running?.version).toBe('4')
      expect(status.failed.map((failed) => failed.version)).toEqual(['5-bad'])
    }
    for (const name of OURS) {
      const row = await fleet.untilHeard('b2', name, (heard) => heard.state === 'fell-back')
      expect(row.reason).toContain('required.d/10-arm')
      expect(row.log).toContain('the arm does not answer on /dev/ttyUSB0')
    }
    // Not tried again, however often it is offered.
    const boots = fleet.logTail('a1').length
    await fleet.flotilla(['seed', 'a2', 'pi-4@5-bad', '--until', 'all', '--timeout', '5'], 7)
    expect((await fleet.status('a1')).slot).not.toBe(id.slice(0, 16))
    expect(fleet.logTail('a1').length).toBeLessThan(boots + 4_000)
  })

  it('brings a device up to date that joins several releases late', async () => {
    await fleet.release('pi-4', '6', images.r2)
    fleet.start('late')
    await fleet.until('late', 'meshed', (status) => status.peers > 0)
    await fleet.flotilla(['seed', 'a3', 'pi-4@6', '--timeout', '120'])
    const status = await fleet.untilRunning('late', '6')
    expect(status.failed).toEqual([])
  })

  it('holds a reboot off as long as the robot asks', async () => {
    await fleet.ask('a1', '/hold', 'POST', { reason: 'carrying a load', seconds: 600 })
    await fleet.release('pi-4', '7', images.r3)
    await fleet.flotilla(['seed', 'a2', 'pi-4@7', '--until', 'first', '--timeout', '120'])
    await fleet.untilRunning('a2', '7')
    const waiting = await fleet.until(
      'a1',
      'waiting',
      (status) => status.state === 'written' && status.waitingFor !== '',
    )
    expect(waiting.waitingFor).toBe('carrying a load')
    await fleet.untilHeard('b1', 'a1', (row) => row.reason === 'carrying a load')
    await fleet.ask('a1', '/release-hold', 'POST')
    await fleet.untilRunning('a1', '7')
  })

  it('goes back by hand to the other proven release and does not try that one again', async () => {
    await fleet.ask('a1', '/rollback', 'POST', { reason: 'gripper drifts' })
    const status = await fleet.until(
      'a1',
      'back',
      (found) => found.running?.version === '6' && found.state === 'fell-back',
    )
    expect(status.failed.at(-1)).toMatchObject({ version: '7', reason: 'gripper drifts' })
    await fleet.untilHeard('b1', 'a1', (row) => row.reason === '7: gripper drifts')
    expect((await fleet.status('a1')).next).toBeNull()
  })
})
