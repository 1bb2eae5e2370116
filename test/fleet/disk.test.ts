import { execFileSync } from 'node:child_process'
import { cpSync, closeSync, openSync, readdirSync, readSync, rmSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeAll, describe, expect, it } from 'vitest'
import { smallImageSet } from './build-images.ts'
import { percentHeld, publishNoise, untilHolds } from './carried-release.ts'
import { canUseNamespaces, namespaceNetwork } from './network.ts'
import { SimulatedFleet } from './simulated-fleet.ts'

const BYTES = 24_000_000

describe('a device whose disk lets it down', () => {
  const images = smallImageSet()
  const mounts: string[] = []
  let fleet: SimulatedFleet

  beforeAll(() => {
    expect(canUseNamespaces(), 'network namespaces need root').toBe(true)
  })

  afterEach(async () => {
    const left = mounts.splice(0)
    for (const name of fleet.devices.keys()) await fleet.powerOff(name)
    for (const mount of left) execFileSync('umount', [mount])
    await fleet.close()
  })

  /** Devices that carry releases of another board. */
  async function build(names: readonly string[]): Promise<void> {
    fleet = new SimulatedFleet(namespaceNetwork(0), images)
    await fleet.init()
    await fleet.release('odroid-xu', '1', images.r1)
    for (const name of names) await fleet.addDevice(name, 'odroid-xu', 'odroid-xu@1')
  }

  async function seed(name: string, version: number): Promise<string> {
    const id = await publishNoise(fleet, images, version, BYTES)
    await fleet.flotilla(['seed', name, `pi-4@${version}`, '--until', 'first', '--timeout', '60'])
    return id
  }

  /** Puts the device's data on a file system of its own. */
  function mountPersist(name: string, size: string): string {
    const persist = join(fleet.device(name).directory, 'persist')
    const copy = `${persist}-before`
    cpSync(persist, copy, { recursive: true })
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size},mode=755`, 'none', persist])
    mounts.push(persist)
    cpSync(copy, persist, { recursive: true })
    rmSync(copy, { recursive: true })
    return persist
  }

  async function untilEvent(name: string, event: string, text: RegExp): Promise<void> {
    const deadline = performance.now() + 60_000
    for (;;) {
      const events = await fleet.events(name)
      if (events.some((entry) => entry.event === event && text.test(JSON.stringify(entry.fields)))) return
      if (performance.now() > deadline) throw new Error(`${name} never told ${event} ${text}\n${fleet.logTail(name)}`)
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }

  it('finds a flipped bit when it serves, tells it, gives nobody the wrong bytes, and fetches the chunk anew', async () => {
    await build(['a1', 'rotten', 'late'])
    await fleet.startAll(['a1', 'rotten'])
    const id = await seed('a1', 2)
    for (const name of ['a1', 'rotten']) await untilHolds(fleet, name, id)
    await fleet.powerOff('a1')
    const directory = join(fleet.device('rotten').directory, 'persist/carried')
    const image = readdirSync(directory)
      .map((name) => join(directory, name))
      .find((path) => statSync(path).size === BYTES)
    const good = flipByte(image ?? '', 10_000_000)
    fleet.start('late')
    await untilEvent('rotten', 'bit-rot', /"chunk":\d+/)
    await untilHolds(fleet, 'late', id, { percent: 90 })
    expect(await percentHeld(fleet, 'late', id)).toBeLessThan(100)
    fleet.start('a1')
    for (const name of ['rotten', 'late']) await untilHolds(fleet, name, id)
    expect(readByte(image ?? '', 10_000_000)).toBe(good)
    const { fetchedBytes } = await fleet.status('rotten')
    expect(fetchedBytes).toBeGreaterThan(BYTES)
    expect(fetchedBytes).toBeLessThan(BYTES * 1.2)
  })

  it('keeps running and carries on once there is room, when its disk is full', async () => {
    await build(['a1', 'full'])
    const persist = mountPersist('full', '20m')
    await fleet.startAll()
    const id = await seed('a1', 2)
    await untilEvent('full', 'carry-failed', /needs|free|full|space/i)
    expect((await fleet.status('full')).state).toBe('proven')
    expect(await percentHeld(fleet, 'full', id)).toBeLessThan(100)
    execFileSync('mount', ['-o', 'remount,size=200m', persist])
    await untilHolds(fleet, 'full', id)
  })

  it('still runs, hears and tells on a read-only disk, and carries on when it can be written again', async () => {
    await build(['a1', 'frozen'])
    const persist = mountPersist('frozen', '200m')
    execFileSync('mount', ['-o', 'remount,ro', persist])
    await fleet.startAll()
    const id = await seed('a1', 2)
    await fleet.untilHeard('frozen', 'a1', (row) => row.holds.includes(id))
    await fleet.untilHeard('a1', 'frozen', (row) => row.state === 'proven')
    expect(await percentHeld(fleet, 'frozen', id)).toBe(0)
    await untilEvent('frozen', 'persist-failed', /persist/)
    await fleet.powerOff('frozen')
    execFileSync('mount', ['-o', 'remount,rw', persist])
    fleet.start('frozen')
    await untilHolds(fleet, 'frozen', id)
  })
})

/** @returns what stood there */
function flipByte(path: string, at: number): number {
  const before = readByte(path, at)
  const file = openSync(path, 'r+')
  writeSync(file, Uint8Array.of(before ^ 0xff), 0, 1, at)
  closeSync(file)
  return before
}

function readByte(path: string, at: number): number {
  const file = openSync(path, 'r')
  const byte = new Uint8Array(1)
  readSync(file, byte, 0, 1, at)
  closeSync(file)
  return byte[0] ?? -1
}
