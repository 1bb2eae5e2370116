import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { ImageSet } from '../fleet/build-images.ts'
import { publishNoise, untilHolds } from '../fleet/carried-release.ts'
import { type Host, namespaceNetwork } from '../fleet/network.ts'
import { SimulatedFleet } from '../fleet/simulated-fleet.ts'
import type { BenchRow } from './bench.ts'

const MEGABYTES = 200
const RATE_MBIT = 100
const IDLE_MS = 5_000
const GOAL_MS = 30
const CONGESTION_CONTROL = 'cubic'

type Sample = { readonly atMs: number; readonly roundTripMs: number }

/**
 * How long a small message takes from a third member to the one that sends 200 MB over a full link, and to the one that
 * receives them; beside it ICMP echoes at the same moments, which say how much of it is the queue of the link.
 */
export async function benchControl(images: ImageSet): Promise<readonly BenchRow[]> {
  const fleet = new SimulatedFleet(namespaceNetwork(RATE_MBIT), images)
  const probes: ChildProcess[] = []
  try {
    await fleet.init()
    await fleet.release('odroid-xu', '1', images.r1)
    const hold = join(fleet.directory, 'traffic')
    await fleet.addDevice('seed', 'odroid-xu', 'odroid-xu@1')
    await fleet.addDevice('peer', 'odroid-xu', 'odroid-xu@1', { trafficFile: hold })
    const probe = await fleet.addDevice('probe', 'odroid-xu', 'odroid-xu@1')
    for (const name of ['seed', 'peer', 'probe']) useCongestionControl(fleet.device(name).host)
    writeFileSync(hold, '0\nuntil all are ready\n')
    for (const name of ['seed', 'peer']) fleet.start(name)
    for (const name of ['seed', 'peer']) await fleet.until(name, 'connected', (status) => status.peers === 1)
    const id = await publishNoise(fleet, images, 2, MEGABYTES * 1_000_000)
    const laptop = await fleet.startFlotilla(['seed', 'seed', 'pi-4@2', '--until', 'first', '--timeout', '120'])
    await untilHolds(fleet, 'seed', id)
    await fleet.end(laptop)

    const targets = ['seed', 'peer'].map((name) => ({ name, host: fleet.device(name).host }))
    const control = new Map<string, Sample[]>(targets.map(({ name }) => [name, []]))
    const echo = new Map<string, Sample[]>(targets.map(({ name }) => [name, []]))
    const addressOf = (host: Host) => `/ip4/${host.address}/tcp/${host.port}`
    const program = [process.execPath, '--no-warnings', join(import.meta.dirname, 'control-probe.ts')]
    const arguments_ = [probe.directory, ...targets.map(({ host }) => addressOf(host))]
    probes.push(
      runLines(probe.host, [...program, ...arguments_], (line) => {
        const sample = JSON.parse(line) as Sample & { address: string }
        const target = targets.find(({ host }) => addressOf(host) === sample.address)
        control.get(target?.name ?? '')?.push(sample)
      }),
    )
    for (const { name, host } of targets) {
      probes.push(
        runLines(probe.host, ['ping', '-D', '-i', '0.05', host.address], (line) => {
          const match = /^\[([\d.]+)\].*time=([\d.]+) ms/.exec(line)
          if (match === null) return
          // `ping` says when the answer came.
          const roundTripMs = Number(match[2])
          echo.get(name)?.push({ atMs: Number(match[1]) * 1_000 - roundTripMs, roundTripMs })
        }),
      )
    }
    while ((control.get('peer')?.length ?? 0) < 20 || (control.get('seed')?.length ?? 0) < 20) await pause(50)
    const idleMs = Date.now()
    await pause(IDLE_MS)
    const releasedMs = Date.now()
    rmSync(hold)
    const before = (await fleet.status('peer')).fetchedBytes
    while ((await fleet.status('peer')).fetchedBytes === before) await pause(20)
    const startedMs = Date.now()
    await untilHolds(fleet, 'peer', id)
    const endedMs = Date.now()
    await pause(500)
    const rate = (MEGABYTES * 8_000) / (endedMs - startedMs)
    process.stderr.write(`  ${MEGABYTES} MB at ${rate.toFixed(0)} Mbit/s\n`)

    const rows: BenchRow[] = []
    for (const { name } of targets) {
      const within = (samples: readonly Sample[] | undefined, fromMs: number, toMs: number) =>
        (samples ?? []).filter(({ atMs }) => atMs >= fromMs && atMs < toMs).map(({ roundTripMs }) => roundTripMs)
      for (const [when, fromMs, toMs] of [
        ['idle', idleMs, releasedMs],
        ['link full', startedMs, endedMs],
      ] as const) {
        const ours = within(control.get(name), fromMs, toMs)
        const icmp = within(echo.get(name), fromMs, toMs)
        process.stderr.write(`  to the ${name}, ${when}: ${ours.length} messages, ${icmp.length} echoes\n`)
        for (const [what, share] of [
          ['median', 0.5],
          ['p99', 0.99],
        ] as const) {
          rows.push({
            name: `control message to the ${name}, ${when}: ${what}`,
            ours: quantile(ours, share),
            peer: quantile(icmp, share),
            peerName: 'ICMP echo',
            unit: 'ms',
            bound: GOAL_MS,
          })
        }
      }
    }
    return rows
  } finally {
    for (const child of probes) child.kill('SIGKILL')
    await fleet.close()
  }
}

/** What Debian has by default, whatever this machine was set to: it decides how long the queue of a full link is. */
function useCongestionControl(host: Host): void {
  const route = ['ip', 'route', 'replace', '10.77.0.0/24', 'dev', 'eth0', 'src', host.address]
  const [program = '', ...args] = host.wrap([...route, 'congctl', CONGESTION_CONTROL])
  execFileSync(program, args)
}

/** The value that the given share of the values is not above. */
function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN
}

function runLines(host: Host, command: readonly string[], onLine: (line: string) => void): ChildProcess {
  const [program = '', ...args] = host.wrap(command)
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let rest = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) onLine(line)
  })
  return child
}
