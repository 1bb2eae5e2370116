import { readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import type { ImageSet } from '../fleet/build-images.ts'
import { namespaceNetwork } from '../fleet/network.ts'
import { SimulatedFleet } from '../fleet/simulated-fleet.ts'
import type { BenchRow } from './bench.ts'
import { cpuSeconds } from './process-meter.ts'

const DEVICES = 9
const WATCH_SECONDS = 30

/** The bundled agent at rest with eight peers: resident memory, processor time, start-up. No peer program does the same. */
export async function benchRest(images: ImageSet): Promise<readonly BenchRow[]> {
  const fleet = new SimulatedFleet(namespaceNetwork(0), images)
  try {
    await fleet.init()
    await fleet.release('pi-4', '1', images.r1)
    const names = Array.from({ length: DEVICES }, (_, at) => `d${at}`)
    for (const name of names) await fleet.addDevice(name, 'pi-4', 'pi-4@1')
    for (const name of names) fleet.start(name)
    for (const name of names) await fleet.until(name, 'meshed', (status) => status.peers === DEVICES - 1)
    await pause(20_000)
    const pid = (await fleet.status('d0')).pid
    const before = cpuSeconds(pid)
    await pause(WATCH_SECONDS * 1_000)
    const cpu = ((cpuSeconds(pid) - before) / WATCH_SECONDS) * 100
    const status = readFileSync(`/proc/${pid}/status`, 'latin1')
    const kib = (field: string) => Number(new RegExp(`${field}:\\s+(\\d+)`).exec(status)?.[1] ?? 0)
    const events = (await fleet.ask('d0', '/events')) as { event: string; uptimeMs: number }[]
    const started = events.findLast((event) => event.event === 'started')?.uptimeMs ?? 0
    const row = (name: string, ours: number, unit: string): BenchRow => ({
      name,
      ours,
      peer: null,
      peerName: '',
      unit,
      bound: null,
    })
    return [
      row('agent at rest, 8 peers: resident', kib('VmRSS') / 1024, 'MiB'),
      row('agent at rest, 8 peers: anonymous', kib('RssAnon') / 1024, 'MiB'),
      row('agent at rest, 8 peers: processor', cpu, '% of a core'),
      row('agent start to ready (9 at once)', started / 1_000, 's'),
    ]
  } finally {
    await fleet.close()
  }
}
