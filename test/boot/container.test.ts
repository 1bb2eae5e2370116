import { type ChildProcess, spawn } from 'node:child_process'
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type BootRecord, encodeBootRecord, freshRecord, parseBootRecord } from '../../protocol/boot/boot-record.ts'
import { emptyTrace, parseTrace } from '../../protocol/boot/boot-trace.ts'
import { squash } from '../fleet/build-images.ts'
import { buildContainerLoader, buildRoot } from './build-initramfs.ts'

const GOOD = '0123456789abcdef'
const TRIAL = 'fedcba9876543210'
const STUCK = '00000000000000aa'
const REPORT = `
echo "started: $($b cat /proc/cmdline) as $$ on $($b cat /etc/name) with $($b cat /mnt/persist/data)"
echo "traced: $($b sed -n 3p /boot/trace)"
$b sleep 0.3
test -e /boot/confirmed && $b cp /boot/confirmed /boot/select.1
test -e /boot/stay && $b sleep 600
test -e /boot/off && $b poweroff -f
$b reboot -f`

let scratch: string
let loader: string
let device: string
let child: ChildProcess | undefined
let log = ''

beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'flotilla-container-'))
  loader = buildContainerLoader(scratch)
  for (const [slot, script] of [
    [GOOD, REPORT],
    [TRIAL, REPORT],
    [STUCK, 'echo stuck; $b sleep 600'],
  ] as const) {
    const tree = join(scratch, `tree-${slot}`)
    buildRoot(tree, script)
    writeFileSync(join(tree, 'etc/name'), slot)
    squash(tree, join(scratch, `${slot}.squashfs`))
  }
})
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

beforeEach(() => {
  device = join(scratch, 'device')
  rmSync(device, { recursive: true, force: true })
  for (const [seq, slot] of [GOOD, TRIAL, STUCK].entries()) {
    const directory = join(device, 'boot/releases', slot)
    mkdirSync(directory, { recursive: true })
    copyFileSync(join(scratch, `${slot}.squashfs`), join(directory, 'rootfs.squashfs'))
    // What is asked for stands after what has the same name inside, and in a text.
    const description = { era: 1, from: { era: 7, seq: 90 + seq }, notes: '"seq":99', seq: 3 - seq }
    writeFileSync(join(directory, 'description.json'), JSON.stringify(description))
    writeFileSync(join(directory, 'loader.env'), 'fl_wait=2\n')
  }
  mkdirSync(join(device, 'persist'))
  writeFileSync(join(device, 'persist/data'), 'data')
  writeFileSync(join(device, 'boot/trace'), emptyTrace())
  writeRecord({})
})
afterEach(async () => {
  await end('SIGKILL')
  log = ''
})

function writeRecord(more: Partial<BootRecord>): void {
  const record = { ...freshRecord(GOOD), seq: 1, canaryAsked: 2, canarySeen: 1, ...more }
  writeFileSync(join(device, 'boot/select.0'), encodeBootRecord(record))
  writeFileSync(join(device, 'boot/select.1'), encodeBootRecord({ ...record, seq: 0 }))
}

/** The record that holds. */
function readRecord(): BootRecord {
  const copies = [0, 1].flatMap((n) => parseBootRecord(readFileSync(join(device, `boot/select.${n}`))) ?? [])
  const [newest] = copies.toSorted((a, b) => b.seq - a.seq)
  if (newest === undefined) throw new Error('both records are damaged')
  return newest
}

function start(): Promise<number | null> {
  const started = spawn(loader, [device], { stdio: ['ignore', 'pipe', 'pipe'] })
  child = started
  for (const stream of [started.stdout, started.stderr]) stream.on('data', (part: Buffer) => void (log += String(part)))
  return new Promise((resolve) => started.once('close', resolve))
}

async function end(signal: NodeJS.Signals): Promise<void> {
  const ended = child
  child = undefined
  if (ended === undefined || ended.exitCode !== null || ended.signalCode !== null) return
  const closed = new Promise((resolve) => ended.once('close', resolve))
  ended.kill(signal)
  await closed
}

async function until(seen: () => boolean, timeoutMs = 30_000): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!seen()) {
    if (performance.now() > deadline) throw new Error(`not seen within ${timeoutMs} ms:\n${log}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

const starts = () => [...log.matchAll(/started: .* on (\w+)/g)].map(([, slot]) => slot)

/** Of this machine: what a loader that was killed would leave behind. */
function processesOf(directory: string): readonly string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false
    try {
      return readFileSync(`/proc/${pid}/mountinfo`, 'utf8').includes(directory)
    } catch {
      return false
    }
  })
}

describe('flotilla-container', () => {
  it('starts the good release as the first process of its namespaces, and again when that reboots', async () => {
    void start()
    await until(() => starts().length >= 2)
    expect(log).toContain(`started: flotilla.slot=${GOOD} flotilla.persist=mounted as 1 on ${GOOD} with data`)
    // What the agent asked is answered.
    expect(readRecord()).toMatchObject({ good: GOOD, canaryAsked: 2, canarySeen: 2 })
    expect(readFileSync('/proc/cmdline', 'latin1')).not.toContain('flotilla.slot')
  })

  it('takes a try before each start of a trial, and falls back when they are used up', async () => {
    writeRecord({ trial: TRIAL, tries: 2 })
    void start()
    await until(() => starts().length >= 4)
    expect(starts().slice(0, 4)).toEqual([TRIAL, TRIAL, GOOD, GOOD])
    expect(log).toContain(`flotilla.slot=${TRIAL} flotilla.persist=mounted flotilla.trial=2`)
    expect(log).toMatch(/1 tries left[^]*0 tries left/)
    expect(readRecord()).toMatchObject({ good: GOOD, tries: 0 })
    expect(parseTrace(readFileSync(join(device, 'boot/trace')))).toMatchObject({ slot: TRIAL, stage: 'system' })
  })

  it('ends a trial that nobody confirms, and says so to the next release', async () => {
    writeRecord({ trial: STUCK, tries: 1 })
    void start()
    await until(() => starts().includes(GOOD))
    expect(log).toContain('stuck')
    expect(parseTrace(readFileSync(join(device, 'boot/trace')))).toMatchObject({
      slot: STUCK,
      stage: 'system',
      why: 'the release was not confirmed within 2 s',
    })
  })

  it('leaves a trial alone that was confirmed in time', async () => {
    const confirmed = { ...freshRecord(TRIAL), seq: 9, canaryAsked: 2, canarySeen: 2 }
    writeFileSync(join(device, 'boot/confirmed'), encodeBootRecord(confirmed))
    writeFileSync(join(device, 'boot/stay'), '')
    writeRecord({ trial: TRIAL, tries: 1 })
    void start()
    await until(() => readRecord().good === TRIAL)
    await new Promise((resolve) => setTimeout(resolve, 3_000))
    expect(starts()).toEqual([TRIAL])
    expect(log).not.toContain('not confirmed')
  })

  it('goes on to the good release when the root of the trial is damaged, with the reason', async () => {
    truncateSync(join(device, 'boot/releases', TRIAL, 'rootfs.squashfs'), 100)
    // Longer than it stands still with its reason.
    writeFileSync(join(device, 'boot/releases', TRIAL, 'loader.env'), 'fl_wait=20\n')
    writeRecord({ trial: TRIAL, tries: 1 })
    void start()
    await until(() => starts().includes(GOOD))
    expect(starts()[0]).toBe(GOOD)
    const trace = parseTrace(readFileSync(join(device, 'boot/trace')))
    expect(trace).toMatchObject({ slot: TRIAL, stage: 'initramfs' })
    expect(trace?.why).toMatch(/^mount \/dev\/loop\d+/)
  })

  it('starts the newest release that was proven when both records are damaged, and makes them anew', async () => {
    for (const n of [0, 1]) writeFileSync(join(device, `boot/select.${n}`), Buffer.alloc(512))
    for (const slot of [TRIAL, GOOD]) writeFileSync(join(device, 'boot/releases', slot, 'proven'), '')
    void start()
    await until(() => starts().length > 0)
    expect(starts()[0]).toBe(GOOD)
    expect(readRecord().good).toBe(GOOD)
  })

  it('starts nothing when nothing was ever proven', async () => {
    for (const n of [0, 1]) writeFileSync(join(device, `boot/select.${n}`), Buffer.alloc(512))
    expect(await start()).toBe(1)
    expect(log).toContain('no release here was ever proven')
  })

  it('ends well when its release halts, and when it is asked to', async () => {
    writeFileSync(join(device, 'boot/off'), '')
    expect(await start()).toBe(0)
    expect(log).toContain(`${GOOD} halted`)
    rmSync(join(device, 'boot/off'))
    writeFileSync(join(device, 'boot/stay'), '')
    log = ''
    const ended = start()
    await until(() => starts().length > 0)
    // BusyBox's shell does not listen as the first process: the second one ends it.
    child?.kill('SIGTERM')
    await new Promise((resolve) => setTimeout(resolve, 500))
    child?.kill('SIGTERM')
    expect(await ended).toBe(0)
    expect(starts()).toHaveLength(1)
  })

  it('leaves nothing behind when it is killed, and counts that try', async () => {
    writeFileSync(join(device, 'boot/stay'), '')
    writeRecord({ trial: TRIAL, tries: 2 })
    void start()
    await until(() => starts().length > 0)
    expect(processesOf(device).length).toBeGreaterThan(0)
    await end('SIGKILL')
    await until(() => processesOf(device).length === 0)
    expect(readRecord()).toMatchObject({ trial: TRIAL, tries: 1 })
  })

  it('says what is wrong with its arguments', async () => {
    device = join(scratch, 'none')
    expect(await start()).toBe(2)
    expect(log).toMatch(/usage: flotilla-container DEVICE.*No such file/)
  })
})
