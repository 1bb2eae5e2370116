import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, unlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { EngineReader } from '../../agent/backup/engine-reader.ts'
import { BackupFleet } from '../backup/backup-fleet.ts'
import { EngineRig } from '../core/engine-rig.ts'
import type { BenchRow } from './bench.ts'

const FILES = Number(process.env['FLOTILLA_BACKUP_FILES'] ?? 20_000)
const MEGABYTES = Number(process.env['FLOTILLA_BACKUP_MB'] ?? 500)
const BACKUPS = 5
const HOLDERS = ['h1', 'h2', 'h3', 'h4'] as const

/**
 * Five backups of a container whose volume has 20 000 files and 500 MB, each time 30 MB newer, 2000 files touched and 100 gone; beside
 * `restic` on the same directory and `borg import-tar` on a tar of it. Then its replication to 1, 2 and 4 holders beside `rsync`,
 * and what the loss of a holder costs.
 */
export async function benchBackup(): Promise<readonly BenchRow[]> {
  const engine = new EngineRig()
  const fleet = new BackupFleet()
  const work = mkdtempSync(join(tmpdir(), 'flotilla-bench-'))
  try {
    await fleet.init()
    await engine.start()
    await engine.busybox('nav:1')
    await fleet.add('owner', engine, { backups: { offerMiB: 0 } })
    for (const name of HOLDERS) await fleet.add(name)
    await fleet.add('spare')
    writePolicy(fleet)
    fleet.fleet.start('owner')
    await fleet.until('owner', 'up', () => true)
    const volume = await volumeOf(engine)
    const rows = await compareBackups(fleet, volume, work)
    return [...rows, ...(await compareReplication(fleet, work))]
  } finally {
    await fleet.close()
    await engine.close()
    rmSync(work, { recursive: true, force: true })
  }
}

function writePolicy(fleet: BackupFleet): void {
  const backup = { copies: HOLDERS.length, fileSystem: false, keep: { last: 20 } }
  const nav = { image: 'nav:1', entrypoint: ['/bin/sleep', '1d'], startAfterCreate: true, stopTimeoutSeconds: 0 }
  fleet.writeCore('owner', {
    containers: { nav: { ...nav, mounts: ['maps:/maps'], backup } },
    images: { 'nav:1': { pull: { policy: 'never' } } },
  })
}

async function volumeOf(engine: EngineRig): Promise<string> {
  for (const deadline = performance.now() + 60_000; performance.now() < deadline; await pause(200)) {
    const found = await (await EngineReader.open(engine.socket)).container('nav').catch(() => undefined)
    const mount = found?.mounts.find(({ target }) => target === '/maps')
    if (found?.status === 'running' && mount !== undefined) return mount.path
  }
  throw new Error('the container does not start')
}

/** 10 % of the bytes in small files, the rest in large ones: maps and logs. */
function fill(directory: string): void {
  for (let n = 0; n < FILES; n += 1) {
    const at = join(directory, `d${n % 100}`)
    if (n < 100) mkdirSync(at)
    writeFileSync(join(at, `f${n}`), randomBytes(Math.floor((MEGABYTES * 100_000) / FILES)))
  }
  for (let n = 0; n < 9; n += 1) writeFileSync(join(directory, `map${n}`), randomBytes(MEGABYTES * 100_000))
}

function change(directory: string, round: number): void {
  writeFileSync(join(directory, `log${round}`), randomBytes(MEGABYTES * 60_000))
  const names = Array.from({ length: FILES }, (_, n) => join(directory, `d${n % 100}`, `f${n}`))
  const step = Math.floor(FILES / 2_000) || 1
  for (let n = round; n < FILES; n += step) {
    const path = names[n] ?? ''
    if (statSync(path, { throwIfNoEntry: false }) !== undefined) utimesSync(path, new Date(), new Date())
  }
  for (let n = round * 101; n < FILES; n += Math.ceil(FILES / 100)) {
    const path = names[n] ?? ''
    if (statSync(path, { throwIfNoEntry: false }) !== undefined) unlinkSync(path)
  }
}

type Tool = { readonly ms: number[]; readonly bytes: number[] }

async function compareBackups(fleet: BackupFleet, volume: string, work: string): Promise<readonly BenchRow[]> {
  const env = { ...process.env, RESTIC_PASSWORD: 'x', BORG_PASSPHRASE: 'x', BORG_BASE_DIR: join(work, 'borg-home') }
  const at = { restic: join(work, 'restic'), borg: join(work, 'borg') }
  const quiet = { env, stdio: 'ignore' as const }
  execFileSync('restic', ['init', '--repository-version', '2', '-r', at.restic], quiet)
  execFileSync('borg', ['init', '-e', 'repokey-blake2', at.borg], quiet)
  const ours: Tool = { ms: [], bytes: [] }
  const restic: Tool = { ms: [], bytes: [] }
  const borg: Tool = { ms: [], bytes: [] }
  const measure = async (tool: Tool, repository: string, run: () => Promise<unknown> | unknown) => {
    const startedMs = performance.now()
    await run()
    tool.ms.push(performance.now() - startedMs)
    tool.bytes.push(Number(execFileSync('du', ['-sb', repository]).toString().split('\t')[0]))
  }
  for (let round = 0; round < BACKUPS; round += 1) {
    if (round === 0) fill(volume)
    else change(volume, round)
    process.stderr.write(`backup ${round + 1} of ${BACKUPS}\n`)
    await measure(ours, join(fleet.skiff('owner'), 'backups/repository'), () => fleet.backUp('owner', 'nav'))
    await measure(restic, at.restic, () =>
      execFileSync('restic', ['--no-cache', '-r', at.restic, 'backup', '.'], { ...quiet, cwd: volume }),
    )
    await measure(borg, at.borg, () =>
      execFileSync(
        'sh',
        ['-c', `tar -C "$1" -c . | borg import-tar -C zstd,3 "$2::t${round}" -`, 'sh', volume, at.borg],
        quiet,
      ),
    )
  }
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)
  const rows: BenchRow[] = []
  for (const [name, peer] of [
    ['restic on the directory', restic],
    ['borg import-tar', borg],
  ] as const) {
    const row = (what: string, unit: string, of: (tool: Tool) => number): BenchRow => ({
      name: `backup: ${what}`,
      ours: of(ours),
      peer: of(peer),
      peerName: name,
      unit,
      bound: null,
    })
    rows.push(
      row('first', 's', ({ ms }) => (ms[0] ?? 0) / 1_000),
      row('four changes', 's', ({ ms }) => sum(ms.slice(1)) / 1_000),
      row('stored, first', 'MB', ({ bytes }) => (bytes[0] ?? 0) / 1e6),
      row('stored, four changes', 'MB', ({ bytes }) => ((bytes.at(-1) ?? 0) - (bytes[0] ?? 0)) / 1e6),
    )
  }
  return rows
}

async function compareReplication(fleet: BackupFleet, work: string): Promise<readonly BenchRow[]> {
  const rows: BenchRow[] = []
  const repository = (await fleet.backups('owner')).head?.repository ?? ''
  const daemon = startRsyncDaemon(fleet, work)
  try {
    for (const count of [1, 2, 4]) {
      const holders = HOLDERS.slice(0, count)
      process.stderr.write(`replicate to ${count}\n`)
      for (const name of holders) fleet.fleet.start(name)
      const told = await Promise.all(holders.map((name) => wholeEvent(fleet, name)))
      const rsync = await rsyncTo(fleet, holders, work)
      rows.push({
        name: `backup: replicate to ${count}`,
        ours: Math.max(...told.map(({ ms }) => ms)) / 1_000,
        peer: rsync / 1_000,
        peerName: 'rsync of the repository',
        unit: 's',
        bound: null,
      })
      if (count === HOLDERS.length) break
      for (const name of holders) {
        await fleet.fleet.powerOff(name)
        rmSync(fleet.replica(name, repository), { recursive: true })
        rmSync(`${fleet.replica(name, repository)}.flotilla`, { recursive: true })
      }
    }
    await fleet.untilCopied('owner', HOLDERS)
    fleet.fleet.start('spare')
    await fleet.fleet.until('spare', 'meshed', ({ peers }) => peers >= HOLDERS.length)
    await fleet.destroy(HOLDERS[0])
    await wholeEvent(fleet, 'spare')
    const bytes = (await fleet.fleet.status('spare')).fetchedBytes
    const size = (await fleet.backups('owner')).head?.bytes ?? 0
    rows.push({
      name: 'backup: traffic to replace a holder',
      ours: bytes / 1e6,
      peer: null,
      peerName: '',
      unit: 'MB',
      bound: size / 1e6,
    })
    return rows
  } finally {
    await fleet.fleet.end(daemon)
  }
}

async function wholeEvent(fleet: BackupFleet, name: string): Promise<{ readonly ms: number }> {
  const startedMs = performance.now()
  while (performance.now() < startedMs + 300_000) {
    const found = (await fleet.fleet.events(name).catch(() => [])).findLast(({ event }) => event === 'replica-whole')
    const { percent } = (await fleet.backups(name).catch(() => undefined))?.replicas[0] ?? {}
    if (found !== undefined && percent === 100) return { ms: Number(found.fields['ms']) }
    await pause(100)
  }
  throw new Error(`${name} holds no whole replica\n${fleet.fleet.logTail(name)}`)
}

function startRsyncDaemon(fleet: BackupFleet, work: string): ChildProcess {
  const config = join(work, 'rsyncd.conf')
  const path = join(fleet.skiff('owner'), 'backups/repository')
  writeFileSync(config, `use chroot = no\nuid = root\ngid = root\n[repository]\npath = ${path}\nread only = yes\n`)
  return fleet.fleet.startProgramOn('owner', ['rsync', '--daemon', '--no-detach', `--config=${config}`, '--port=8730'])
}

/** Several at once, as an operator would with a shell. @returns milliseconds until the last has it all */
async function rsyncTo(fleet: BackupFleet, holders: readonly string[], work: string): Promise<number> {
  const { address } = fleet.fleet.device('owner').host
  await pause(500)
  const startedMs = performance.now()
  await Promise.all(
    holders.map((name) => {
      const target = join(work, `copy-${name}`)
      const args = ['rsync', '-a', '--port=8730', `rsync://${address}/repository/`, `${target}/`]
      const [program = '', ...rest] = fleet.fleet.network.wrapFor(name, args)
      return new Promise<void>((resolve, reject) => {
        const child = spawn(program, rest, { stdio: 'ignore' })
        child.once('exit', (code) => (code === 0 ? resolve() : reject(new Error(`rsync ended with ${code}`))))
      })
    }),
  )
  const ms = performance.now() - startedMs
  for (const entry of readdirSync(work)) if (entry.startsWith('copy-')) rmSync(join(work, entry), { recursive: true })
  return ms
}
