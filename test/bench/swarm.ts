import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createCipheriv, createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ImageSet } from '../fleet/build-images.ts'
import { type Host, namespaceNetwork } from '../fleet/network.ts'
import { SimulatedFleet } from '../fleet/simulated-fleet.ts'
import type { BenchRow } from './bench.ts'

const PEERS = 8
const MEGABYTES = 200
const RATE_MBIT = 100

/**
 * One seed, eight peers on links of 100 Mbit/s, 200 MB of noise, until the last holds a verified copy, start of the
 * programs included. Ours: the seed is a device that holds the release; eight agents start with nothing of it.
 */
export async function benchSwarm(images: ImageSet): Promise<readonly BenchRow[]> {
  const directory = mkdtempSync(join(tmpdir(), 'flotilla-bench-'))
  try {
    const cipher = createCipheriv('aes-128-ctr', Buffer.alloc(16, 1), Buffer.alloc(16))
    const file = join(directory, 'file')
    writeFileSync(file, cipher.update(Buffer.alloc(MEGABYTES * 1_000_000)))
    const bound = (MEGABYTES * 8) / RATE_MBIT
    const ours = await ourSeconds(images, file)
    process.stderr.write(`  flotilla ${ours.toFixed(1)} s\n`)
    const rows: BenchRow[] = []
    for (const [peerName, measure] of [
      ['aria2 1.36', aria2Seconds],
      ['rsync 3', rsyncSeconds],
    ] as const) {
      const peer = await measure(directory, file)
      process.stderr.write(`  ${peerName} ${peer.toFixed(1)} s\n`)
      rows.push({
        name: `swarm 1 to ${PEERS}, ${MEGABYTES} MB, ${RATE_MBIT} Mbit/s`,
        ours,
        peer,
        peerName,
        unit: 's',
        bound,
      })
    }
    return rows
  } finally {
    rmSync(directory, { recursive: true })
  }
}

/** Couriers of another board carry the release: the same engine, without the reboot that only our side would pay for. */
async function ourSeconds(images: ImageSet, file: string): Promise<number> {
  const fleet = new SimulatedFleet(namespaceNetwork(RATE_MBIT), images)
  try {
    const payload = join(fleet.directory, 'payload')
    mkdirSync(payload)
    for (const name of ['init', 'vmlinuz']) writeFileSync(join(payload, name), readFileSync(join(images.r1, name)))
    execFileSync('cp', [file, join(payload, 'rootfs.squashfs')])
    await fleet.init()
    await fleet.release('odroid-xu', '1', images.r1)
    const names = Array.from({ length: PEERS }, (_, at) => `p${at}`)
    for (const name of names) await fleet.addDevice(name, 'odroid-xu', 'odroid-xu@1')
    await fleet.addDevice('seed', 'odroid-xu', 'odroid-xu@1')
    fleet.start('seed')
    await fleet.until('seed', 'up', () => true)
    const id = await fleet.release('pi-4', '1', payload)
    const laptop = await fleet.startFlotilla(['seed', 'seed', 'pi-4@1', '--until', 'first', '--timeout', '120'])
    const holds = async (name: string) => {
      const releases = (await fleet.ask(name, '/releases').catch(() => [])) as {
        id: string
        percent: number
        where: string
      }[]
      return releases.some((release) => release.id === id && release.percent === 100)
    }
    while (!(await holds('seed'))) await pause(200)
    await fleet.end(laptop)
    const startedMs = performance.now()
    for (const name of names) fleet.start(name)
    for (const name of names) while (!(await holds(name))) await pause(200)
    return (performance.now() - startedMs) / 1_000
  } finally {
    await fleet.close()
  }
}

async function aria2Seconds(directory: string, file: string): Promise<number> {
  const network = namespaceNetwork(RATE_MBIT)
  const children: ChildProcess[] = []
  try {
    const seed = await network.addHost('seed')
    const hosts = await addPeers(network.addHost)
    const announce = `http://${seed.address}:6969/announce`
    const torrent = join(directory, 'file.torrent')
    rmSync(torrent, { force: true })
    execFileSync('mktorrent', ['-l', '18', '-a', announce, '-o', torrent, file], { stdio: 'ignore' })
    const tracker = join(import.meta.dirname, 'tracker.ts')
    children.push(start(seed, [process.execPath, '--no-warnings', tracker, '6969']))
    const options = [
      '--enable-dht=false',
      '--bt-enable-lpd=true',
      '--listen-port=6881',
      '--seed-ratio=0',
      '--file-allocation=none',
      '--bt-max-peers=55',
      '--bt-tracker-interval=2',
      '--summary-interval=0',
      '--quiet',
    ]
    children.push(start(seed, ['aria2c', ...options, '--check-integrity=true', '-d', directory, torrent]))
    await pause(3_000)
    const startedMs = performance.now()
    const outs = hosts.map((_, at) => join(directory, `aria-${at}`))
    hosts.forEach((host, at) => children.push(start(host, ['aria2c', ...options, '-d', outs[at] ?? '', torrent])))
    return await untilAllWhole(
      outs.map((out) => join(out, 'file')),
      file,
      startedMs,
    )
  } finally {
    end(children)
    network.close()
    execFileSync('sh', ['-c', `rm -rf ${directory}/aria-*`])
  }
}

async function rsyncSeconds(directory: string, file: string): Promise<number> {
  const network = namespaceNetwork(RATE_MBIT)
  const children: ChildProcess[] = []
  try {
    const seed = await network.addHost('seed')
    const hosts = await addPeers(network.addHost)
    const config = join(directory, 'rsyncd.conf')
    writeFileSync(
      config,
      `use chroot = no\nuid = root\ngid = root\nmax connections = 0\npid file = ${directory}/rsync.pid\n[m]\npath = ${directory}\n`,
    )
    children.push(start(seed, ['rsync', '--daemon', '--no-detach', `--config=${config}`, '--port=8730']))
    await pause(500)
    const startedMs = performance.now()
    const outs = hosts.map((_, at) => join(directory, `rsync-${at}`))
    hosts.forEach((host, at) =>
      children.push(start(host, ['rsync', `rsync://${seed.address}:8730/m/file`, outs[at] ?? ''])),
    )
    return await untilAllWhole(outs, file, startedMs)
  } finally {
    end(children)
    network.close()
  }
}

async function addPeers(addHost: (name: string) => Promise<Host>): Promise<Host[]> {
  const hosts: Host[] = []
  for (let at = 0; at < PEERS; at += 1) hosts.push(await addHost(`peer-${at}`))
  return hosts
}

function start(host: Host, command: readonly string[]): ChildProcess {
  const [program = '', ...args] = host.wrap(command)
  return spawn(program, args, { stdio: 'ignore' })
}

function end(children: readonly ChildProcess[]): void {
  for (const child of children) child.kill('SIGKILL')
}

/** Judges by content, since a file may have its length long before it is whole. */
async function untilAllWhole(paths: readonly string[], original: string, startedMs: number): Promise<number> {
  const hash = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex')
  const wanted = hash(original)
  const size = statSync(original).size
  const blocks = (path: string) => (existsSync(path) ? statSync(path).blocks * 512 : 0)
  for (const path of paths) {
    for (;;) {
      if (blocks(path) >= size && statSync(path).size === size && hash(path) === wanted) break
      if (performance.now() - startedMs > 300_000) throw new Error(`${path} is not whole after five minutes`)
      await pause(100)
    }
  }
  return (performance.now() - startedMs) / 1_000
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
