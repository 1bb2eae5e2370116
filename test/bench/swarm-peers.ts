import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { writeNoise } from '../fleet/carried-release.ts'
import { type Host, namespaceNetwork } from '../fleet/network.ts'
import { hostOptions, type Race } from './race.ts'

type Field = {
  /** Holds the file under `name`; the seed may write what it likes beside it. */
  readonly seedDirectory: string
  readonly name: string
  readonly seed: Host
  readonly hosts: readonly Host[]
  /** Where a peer has to bring the file, under the same name; made beforehand. */
  readonly outs: readonly string[]
  /** A directory for configuration and state; made beforehand. */
  readonly state: string
  readonly start: (host: Host, command: readonly string[]) => void
}
/** A program to compare with, tuned for the race as far as its options go. */
export type PeerProgram = {
  readonly name: string
  /** Configures everybody and starts the seed. @returns the command line of each peer */
  readonly prepare: (field: Field) => readonly (readonly string[])[]
  /** How long the seed needs to be ready, before the clock starts. */
  readonly settleMs: number
}

export const PEER_PROGRAMS: readonly PeerProgram[] = [
  { name: 'aria2 1.36', prepare: aria2, settleMs: 3_000 },
  { name: 'libtorrent 2.0', prepare: libtorrent, settleMs: 3_000 },
  { name: 'transmission 3', prepare: transmission, settleMs: 8_500 },
  { name: 'syncthing 1.19', prepare: syncthing, settleMs: 5_000 },
  { name: 'rsync 3', prepare: rsync, settleMs: 500 },
]

/** Runs the race with one program: from the start of the peers' processes until the last holds a whole copy. */
export async function peerSeconds(program: PeerProgram, race: Race): Promise<number> {
  const network = namespaceNetwork(race.rateMbit, { shared: race.shared })
  const children: ChildProcess[] = []
  const start = (host: Host, command: readonly string[]) => {
    const [file = '', ...args] = host.wrap(command)
    children.push(spawn(file, args, { stdio: 'ignore' }))
  }
  const ground = mkdtempSync(join(tmpdir(), 'flotilla-race-'))
  const make = (name: string) => {
    mkdirSync(join(ground, name))
    return join(ground, name)
  }
  try {
    const seed = await network.addHost('seed')
    const hosts: Host[] = []
    for (let at = 0; at < race.peers; at += 1) hosts.push(await network.addHost(`peer-${at}`, hostOptions(race, at)))
    const outs = hosts.map((_, at) => make(`peer-${at}`))
    const seedDirectory = make('seed')
    writeNoise(join(seedDirectory, 'file'), race.megabytes * 1_000_000, 1)
    const commands = program.prepare({ seedDirectory, name: 'file', seed, hosts, outs, state: make('state'), start })
    await pause(program.settleMs)
    const startedMs = Date.now()
    hosts.forEach((host, at) => start(host, commands[at] ?? []))
    return await untilAllWhole(
      outs.map((out) => join(out, 'file')),
      join(seedDirectory, 'file'),
      startedMs,
    )
  } finally {
    for (const child of children) child.kill('SIGKILL')
    network.close()
    rmSync(ground, { recursive: true, force: true, maxRetries: 5 })
  }
}

/** Makes a torrent and starts its tracker at the seed. @param power - pieces have 2^power bytes */
function startTracker(field: Field, power: number): string {
  const torrent = join(field.state, 'file.torrent')
  const announce = `http://${field.seed.address}:6969/announce`
  const from = join(field.seedDirectory, field.name)
  execFileSync('mktorrent', ['-l', `${power}`, '-a', announce, '-o', torrent, from], { stdio: 'ignore' })
  field.start(field.seed, [process.execPath, '--no-warnings', join(import.meta.dirname, 'tracker.ts'), '6969'])
  execFileSync('sleep', ['0.5'])
  return torrent
}

function aria2(field: Field): string[][] {
  const torrent = startTracker(field, 20)
  const command = [
    'aria2c',
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
  field.start(field.seed, [...command, '--check-integrity=true', '-d', field.seedDirectory, torrent])
  return field.outs.map((out) => [...command, '-d', out, torrent])
}

function rsync(field: Field): string[][] {
  const config = join(field.state, 'rsyncd.conf')
  writeFileSync(
    config,
    `use chroot = no\nuid = root\ngid = root\nmax connections = 0\npid file = ${field.state}/rsync.pid\n[m]\npath = ${field.seedDirectory}\n`,
  )
  field.start(field.seed, ['rsync', '--daemon', '--no-detach', `--config=${config}`, '--port=8730'])
  return field.outs.map((out) => ['rsync', `rsync://${field.seed.address}:8730/m/${field.name}`, `${out}/`])
}

/** The library that qBittorrent and Deluge are made with. Debian's Python, since another would not have the module. */
function libtorrent(field: Field): string[][] {
  const torrent = startTracker(field, 20)
  const command = ['/usr/bin/python3', join(import.meta.dirname, 'swarm-libtorrent.py'), torrent]
  field.start(field.seed, [...command, field.seedDirectory, 'seed'])
  return field.outs.map((out) => [...command, out])
}

/** Says "interested" and unchokes every ten seconds alone, so the seed starts such that its next turn follows theirs. */
function transmission(field: Field): string[][] {
  const torrent = startTracker(field, 20)
  const command = (name: string, directory: string) => {
    const home = join(field.state, name)
    mkdirSync(home)
    const settings = {
      'cache-size-mb': 16,
      'dht-enabled': false,
      encryption: 0,
      'lpd-enabled': false,
      'peer-limit-per-torrent': 60,
      'pex-enabled': true,
      'port-forwarding-enabled': false,
      preallocation: 0,
      'rename-partial-files': false,
      'upload-slots-per-torrent': 60,
      'utp-enabled': false,
    }
    writeFileSync(join(home, 'settings.json'), JSON.stringify(settings))
    return ['transmission-cli', '-g', home, '-D', '-U', '-M', '-et', '-w', directory, torrent]
  }
  field.start(field.seed, command('seed', field.seedDirectory))
  return field.outs.map((out, at) => command(`peer-${at}`, out))
}

/**
 * Everybody knows the address of everybody, so nothing has to be discovered. With the usual 32 MiB of pending requests
 * all would queue at the seed and not ask each other.
 */
function syncthing(field: Field): string[][] {
  const everybody = [field.seed, ...field.hosts].map((host, at) => {
    const home = join(field.state, `${at}`)
    execFileSync('syncthing', ['generate', `--home=${home}`, '--no-default-folder'], { stdio: 'ignore' })
    const id = execFileSync('syncthing', [`--home=${home}`, '--device-id'], { encoding: 'utf8' }).trim()
    return { host, home, id, directory: field.outs[at - 1] ?? field.seedDirectory }
  })
  const commands = everybody.map(({ home, directory }) => {
    mkdirSync(join(directory, '.stfolder'))
    writeFileSync(
      join(home, 'config.xml'),
      `<configuration version="36">
<folder id="f" path="${directory}" type="sendreceive" rescanIntervalS="3600" fsWatcherEnabled="false" ignorePerms="true">
${everybody.map(({ id }) => `<device id="${id}"/>`).join('')}
<weakHashThresholdPct>101</weakHashThresholdPct><disableFsync>true</disableFsync>
<blockPullOrder>standard</blockPullOrder><maxConcurrentWrites>16</maxConcurrentWrites>
<pullerMaxPendingKiB>2048</pullerMaxPendingKiB>
</folder>
${everybody.map(({ id, host }) => `<device id="${id}" compression="never"><address>tcp://${host.address}:22000</address></device>`).join('\n')}
<gui enabled="false"/>
<options>
<listenAddress>tcp://0.0.0.0:22000</listenAddress><globalAnnounceEnabled>false</globalAnnounceEnabled>
<localAnnounceEnabled>false</localAnnounceEnabled><relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled>
<reconnectionIntervalS>1</reconnectionIntervalS><startBrowser>false</startBrowser><urAccepted>-1</urAccepted>
<autoUpgradeIntervalH>0</autoUpgradeIntervalH><crashReportingEnabled>false</crashReportingEnabled>
<progressUpdateIntervalS>1</progressUpdateIntervalS><setLowPriority>false</setLowPriority>
<tempIndexMinBlocks>1</tempIndexMinBlocks><maxConcurrentIncomingRequestKiB>-1</maxConcurrentIncomingRequestKiB>
</options>
</configuration>
`,
    )
    // One process instead of a monitor and its child, which a kill would leave behind.
    const environment = ['STMONITORED=1', 'STHASHING=minio', 'STNOUPGRADE=1']
    return ['env', ...environment, 'syncthing', 'serve', `--home=${home}`, '--no-browser']
  })
  field.start(field.seed, commands[0] ?? [])
  return commands.slice(1)
}

/**
 * Looks at sizes alone while the race is on, since hashes would take the cores from the racers; a whole file is dated
 * by its last change. Judges by content, since a file may have its length long before it is whole.
 */
async function untilAllWhole(paths: readonly string[], original: string, startedMs: number): Promise<number> {
  const hash = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex')
  const wanted = hash(original)
  const size = statSync(original).size
  const isFull = (path: string) => {
    const found = statSync(path, { throwIfNoEntry: false })
    return found !== undefined && found.size === size && found.blocks * 512 >= size
  }
  for (;;) {
    if (paths.every(isFull) && paths.every((path) => hash(path) === wanted)) break
    if (Date.now() - startedMs > 300_000) throw new Error('not all are whole after five minutes')
    await pause(100)
  }
  return (Math.max(...paths.map((path) => statSync(path).ctimeMs)) - startedMs) / 1_000
}
