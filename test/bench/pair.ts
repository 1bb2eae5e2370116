import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { ImageSet } from '../fleet/build-images.ts'
import { publishNoise, untilHolds, writeNoise } from '../fleet/carried-release.ts'
import { type Host, namespaceNetwork } from '../fleet/network.ts'
import { SimulatedFleet } from '../fleet/simulated-fleet.ts'
import type { BenchRow } from './bench.ts'
import { childCpuSeconds, cpuSeconds, watchMemory } from './process-meter.ts'

/** Below what a courier carries by default. */
const MEGABYTES = 900
const BYTES = MEGABYTES * 1_000_000
const GIB = 2 ** 30
const SSH_PORT = 2222

/** What one transfer cost: both ends together, except the memory, which is the most that one end had at a time. */
type Transfer = { readonly seconds: number; readonly cpuSeconds: number; readonly residentMiB: number }

/**
 * One file from one host to one other over a link that nothing limits. Ours keeps, checks and flushes every chunk; the
 * bare stream only counts its bytes; rsync over ssh keeps them.
 */
export async function benchPair(images: ImageSet): Promise<readonly BenchRow[]> {
  const directory = mkdtempSync(join(tmpdir(), 'flotilla-pair-'))
  try {
    const file = join(directory, 'file')
    writeNoise(file, BYTES, 2)
    const ours = say('flotilla', await ourTransfer(images))
    const rows: BenchRow[] = []
    for (const [peerName, measure] of [
      ['bare libp2p stream', streamTransfer],
      ['rsync 3 over ssh', rsyncTransfer],
    ] as const) {
      const peer = say(peerName, await measure(directory, file))
      const row = (what: string, unit: string, of: (transfer: Transfer) => number): BenchRow => ({
        name: `one to one, ${MEGABYTES} MB: ${what}`,
        ours: of(ours),
        peer: of(peer),
        peerName,
        unit,
        bound: null,
      })
      rows.push(
        row('time', 's', ({ seconds }) => seconds),
        row('processor, both ends', 's per GiB', ({ cpuSeconds }) => (cpuSeconds * GIB) / BYTES),
        row('resident, larger end', 'MiB', ({ residentMiB }) => residentMiB),
      )
    }
    return rows
  } finally {
    rmSync(directory, { recursive: true })
  }
}

function say(name: string, transfer: Transfer): Transfer {
  const rate = (MEGABYTES / transfer.seconds).toFixed(0)
  const cpu = ((transfer.cpuSeconds * GIB) / BYTES).toFixed(2)
  process.stderr.write(`  ${name}: ${rate} MB/s, ${cpu} CPU s/GiB, ${transfer.residentMiB.toFixed(0)} MiB\n`)
  return transfer
}

/** From the first chunk that is seen to arrive until the receiver, a courier of another board, holds a verified copy. */
async function ourTransfer(images: ImageSet): Promise<Transfer> {
  const fleet = new SimulatedFleet(namespaceNetwork(0), images)
  try {
    await fleet.init()
    await fleet.release('odroid-xu', '1', images.r1)
    for (const name of ['seed', 'peer']) await fleet.addDevice(name, 'odroid-xu', 'odroid-xu@1', { nice: 0 })
    fleet.start('seed')
    await fleet.until('seed', 'up', () => true)
    const id = await publishNoise(fleet, images, 2, BYTES)
    const laptop = await fleet.startFlotilla(['seed', 'seed', 'pi-4@2', '--until', 'first', '--timeout', '300'])
    await untilHolds(fleet, 'seed', id)
    await fleet.end(laptop)
    fleet.start('peer')
    const pids = [(await fleet.status('seed')).pid, (await fleet.until('peer', 'up', () => true)).pid]
    const cpu = () => pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0)
    let before = { cpu: cpu(), ms: performance.now() }
    while ((await fleet.status('peer')).fetchedBytes === 0) {
      before = { cpu: cpu(), ms: performance.now() }
      await pause(20)
    }
    const watch = watchMemory(pids)
    await untilHolds(fleet, 'peer', id)
    const seconds = (performance.now() - before.ms) / 1_000
    return { seconds, cpuSeconds: cpu() - before.cpu, residentMiB: watch() }
  } finally {
    await fleet.close()
  }
}

/** The libraries that ours stands on, and nothing else: TCP, Noise, Yamux with their own settings, one stream. */
async function streamTransfer(): Promise<Transfer> {
  const network = namespaceNetwork(0)
  const children: ChildProcess[] = []
  try {
    const [from, to] = [await network.addHost('from'), await network.addHost('to')]
    const program = [process.execPath, '--no-warnings', join(import.meta.dirname, 'pair-stream.ts')]
    const sender = spawnOn(from, [...program, 'serve', from.address, String(BYTES)])
    children.push(sender)
    const lines = linesOf(sender)
    const { address } = (await lines.next()) as { address: string }
    const receiver = spawnOn(to, [...program, 'fetch', address])
    children.push(receiver)
    const watch = watchMemory([sender.pid ?? 0, receiver.pid ?? 0])
    const received = (await linesOf(receiver).next()) as { bytes: number; seconds: number; cpuSeconds: number }
    const residentMiB = watch()
    if (received.bytes !== BYTES) throw new Error(`the bare stream brought ${received.bytes} bytes`)
    const sent = (await lines.next()) as { cpuSeconds: number }
    return { seconds: received.seconds, cpuSeconds: received.cpuSeconds + sent.cpuSeconds, residentMiB }
  } finally {
    for (const child of children) child.kill('SIGKILL')
    network.close()
  }
}

/** An sshd of its own, with its own keys, in the namespace of the sender. */
async function rsyncTransfer(directory: string, file: string): Promise<Transfer> {
  const network = namespaceNetwork(0)
  const children: ChildProcess[] = []
  try {
    const [from, to] = [await network.addHost('from'), await network.addHost('to')]
    const path = (name: string) => join(directory, name)
    for (const key of ['host-key', 'user-key'])
      execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', path(key)])
    const lines = [
      `Port ${SSH_PORT}`,
      `ListenAddress ${from.address}`,
      `HostKey ${path('host-key')}`,
      `AuthorizedKeysFile ${path('user-key.pub')}`,
      `PidFile none`,
      'PermitRootLogin prohibit-password',
      'StrictModes no',
      'UsePAM no',
      'LogLevel QUIET',
    ]
    writeFileSync(path('sshd_config'), `${lines.join('\n')}\n`)
    mkdirSync('/run/sshd', { recursive: true }) // where sshd locks in the part of it that talks to strangers
    const server = spawnOn(from, ['/usr/sbin/sshd', '-D', '-f', path('sshd_config')])
    children.push(server)
    await pause(1_000)
    const ssh = `ssh -p ${SSH_PORT} -i ${path('user-key')} -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR`
    // The shell says what its children took.
    const command = `rsync -e '${ssh}' root@${from.address}:${file} ${path('copy')} && times`
    const startedMs = performance.now()
    const client = spawnOn(to, ['sh', '-c', command])
    children.push(client)
    const watch = watchMemory([server.pid ?? 0, client.pid ?? 0])
    const out = await textOf(client)
    const seconds = (performance.now() - startedMs) / 1_000
    const residentMiB = watch()
    execFileSync('cmp', [file, path('copy')])
    const took = [...(out.split('\n')[1] ?? '').matchAll(/(\d+)m([\d.]+)s/g)]
    const clientSeconds = took.reduce((sum, [, minutes, rest]) => sum + Number(minutes) * 60 + Number(rest), 0)
    await pause(500) // until sshd has seen its child end
    return { seconds, cpuSeconds: clientSeconds + childCpuSeconds(server.pid ?? 0), residentMiB }
  } finally {
    for (const child of children) child.kill('SIGKILL')
    network.close()
  }
}

function spawnOn(host: Host, command: readonly string[]): ChildProcess {
  const [program = '', ...args] = host.wrap(command)
  return spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] })
}

function linesOf(child: ChildProcess): { readonly next: () => Promise<unknown> } {
  const lines: string[] = []
  let rest = ''
  let wake = () => {}
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    const parts = (rest + text).split('\n')
    rest = parts.pop() ?? ''
    lines.push(...parts)
    wake()
  })
  child.once('exit', () => wake())
  return {
    next: async () => {
      while (lines.length === 0) {
        if (child.exitCode !== null) throw new Error(`an end of the stream ended with ${child.exitCode}`)
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
      return JSON.parse(lines.shift() ?? '') as unknown
    },
  }
}

async function textOf(child: ChildProcess): Promise<string> {
  let text = ''
  child.stdout?.setEncoding('utf8').on('data', (part: string) => {
    text += part
  })
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve))
  if (code !== 0) throw new Error(`rsync over ssh ended with ${code}`)
  return text
}
