import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { writeDiskImage } from '../../builder/images/write-disk-image.ts'
import { type BootRecord, encodeBootRecord, freshRecord, parseBootRecord } from '../../protocol/boot/boot-record.ts'
import { emptyTrace, parseTrace } from '../../protocol/boot/boot-trace.ts'
import { slotFiles } from '../../protocol/boot/slot-files.ts'
import { squash } from '../fleet/build-images.ts'
import { checkBootPartition, readBootFile, writeBootFile } from '../machine/boot-files.ts'
import { kernelOf } from '../machine/debian-trees.ts'
import { buildInitramfs, buildRoot } from './build-initramfs.ts'
import { type MachineRun, runMachine } from './virtual-machine.ts'

const GOOD = '0123456789abcdef'
const TRIAL = 'fedcba9876543210'
const STUCK = '00000000000000aa'
const COMMAND_LINE = 'console=ttyS0 quiet panic=1 mitigations=off'
const REPORT = `
echo "started: $($b cat /proc/cmdline)"
echo "traced: $($b sed -n 3p /boot/trace)"
echo "guard: $($b cat /proc/$FLOTILLA_GUARD/comm 2>/dev/null)"
$b sleep 1
$b poweroff -f`

let root: string
let kernel: string
let initramfs: string
let made: string
let disk: string

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'flotilla-trial-'))
  kernel = kernelOf('x86_64')
  initramfs = buildInitramfs(root)
  const device = join(root, 'device')
  for (const [slot, script] of [
    [GOOD, REPORT],
    [TRIAL, REPORT],
    [STUCK, 'echo stuck; $b sleep 3600'],
  ] as const) {
    const directory = join(device, 'boot/releases', slot)
    mkdirSync(directory, { recursive: true })
    buildRoot(join(root, slot), script)
    squash(join(root, slot), join(directory, 'rootfs.squashfs'))
    const sha256 = createHash('sha256')
      .update(readFileSync(join(directory, 'rootfs.squashfs')))
      .digest('hex')
    const description = `{"artifacts":[{"kind":"rootfs","name":"rootfs.squashfs","sha256":"${sha256}"}]}`
    writeFileSync(join(directory, 'description.json'), description)
    copyFileSync(kernel, join(directory, 'kernel'))
    copyFileSync(initramfs, join(directory, 'initramfs'))
    const boot = { slot, kernel: 'kernel', initramfs: 'initramfs', deviceTree: '', commandLine: COMMAND_LINE }
    for (const { name, bytes } of slotFiles('extlinux', { ...boot, trialSeconds: 60 }))
      writeFileSync(join(directory, name), bytes)
  }
  writeFileSync(join(device, 'boot/trace'), emptyTrace())
  for (const name of ['select.0', 'select.1']) writeFileSync(join(device, 'boot', name), new Uint8Array(512))
  mkdirSync(join(device, 'persist'))
  writeFileSync(join(device, 'agent.yaml'), '')
  made = join(root, 'made.img')
  const layout = { table: 'gpt', raw: [], bootFiles: undefined } as const
  const sizes = { bootPartitionBytes: undefined, totalBytes: undefined }
  writeDiskImage({ layout, efi: true, device, images: root, file: made, ...sizes })
  disk = join(root, 'disk.img')
}, 120_000)

beforeEach(() => copyFileSync(made, disk))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const boot = (commandLine: string, timeoutMs = 90_000): Promise<MachineRun> =>
  runMachine({ kernel, initramfs, commandLine, disks: [disk], keep: true, timeoutMs })
const read = (path: string): Buffer => readBootFile(disk, path) ?? Buffer.alloc(0)
const overwrite = (path: string, bytes: Uint8Array) => writeBootFile(disk, path, bytes)

describe('a boot on trial, in a virtual machine', () => {
  it('leaves how far it came, with the boot partition read-only and sound', async () => {
    const { console, ended } = await boot(`flotilla.slot=${TRIAL} flotilla.trial=60`)
    expect(console).toContain('guard: flotilla-guard')
    // Not what was in memory of the file before.
    expect(console).toContain('traced: system')
    expect(ended).toBe(true)
    expect(parseTrace(read('trace'))).toEqual({ slot: TRIAL, stage: 'system', why: '' })
    expect(checkBootPartition(disk, root)).toBe('')
  })

  it('is reset when nobody confirms it, and that is written down', async () => {
    const { console, ended } = await boot(`flotilla.slot=${STUCK} flotilla.trial=5`)
    expect(console).toContain('flotilla-guard: the release was not confirmed within 5 s; reset')
    expect(ended).toBe(true)
    const why = 'the release was not confirmed within 5 s'
    expect(parseTrace(read('trace'))).toEqual({ slot: STUCK, stage: 'system', why })
  })

  it('leaves nothing when it is not on trial, and has no guard', async () => {
    const { console } = await boot(`flotilla.slot=${GOOD}`)
    expect(console).toContain('guard: \r\n')
    expect(read('trace')).toEqual(Buffer.from(emptyTrace()))
  })

  it('is refused when its root rotted and it is to be verified', async () => {
    expect((await boot(`flotilla.slot=${TRIAL} flotilla.verify=1`)).console).toContain('started: ')
    const rootfs = read(`releases/${TRIAL}/rootfs.squashfs`)
    rootfs[rootfs.length >> 1] = (rootfs[rootfs.length >> 1] ?? 0) ^ 1
    overwrite(`releases/${TRIAL}/rootfs.squashfs`, rootfs)
    const { console } = await boot(`flotilla.slot=${TRIAL} flotilla.trial=60 flotilla.verify=1`)
    const why = "rootfs.squashfs does not match the release's description"
    expect(console).toContain(`cannot start: ${why}`)
    expect(parseTrace(read('trace'))).toEqual({ slot: TRIAL, stage: 'initramfs', why })
  })
})

describe('the choice of the initramfs, for loaders that cannot count', () => {
  const record = (change: Partial<BootRecord>) => {
    overwrite('select.0', encodeBootRecord({ ...freshRecord(GOOD), seq: 6 }))
    overwrite('select.1', encodeBootRecord({ ...freshRecord(GOOD), seq: 7, ...change }))
  }
  const records = () => [parseBootRecord(read('select.0')), parseBootRecord(read('select.1'))]
  const select = () => boot(`flotilla.slot=${GOOD} flotilla.select=1`)

  it('takes a try first, and starts what is on trial with its own arguments', async () => {
    record({ trial: TRIAL, tries: 3 })
    const { console } = await select()
    expect(console).toContain(`on trial: ${TRIAL}, 2 tries left`)
    expect(console).toContain(`started: ${COMMAND_LINE} flotilla.slot=${TRIAL} flotilla.trial=60\r\n`)
    expect(records()[0]).toMatchObject({ seq: 8, trial: TRIAL, tries: 2 })
    expect(records()[1]).toMatchObject({ seq: 7, tries: 3 })
    expect(parseTrace(read('trace'))).toEqual({ slot: TRIAL, stage: 'system', why: '' })
    expect(checkBootPartition(disk, root)).toBe('')
  })

  it('goes on with the good slot when no try is left, and writes nothing', async () => {
    record({ trial: TRIAL, tries: 0 })
    const before = records()
    expect((await select()).console).toMatch(new RegExp(`started: .*flotilla.slot=${GOOD} flotilla.select=1`))
    expect(records()).toEqual(before)
  })

  it('answers that it counts', async () => {
    record({ canaryAsked: 5, canarySeen: 4 })
    expect((await select()).console).toMatch(new RegExp(`started: .*flotilla.slot=${GOOD} `))
    expect(records()[0]).toMatchObject({ seq: 8, canaryAsked: 5, canarySeen: 5 })
  })

  it('gives up a kernel that does not load, and says so', async () => {
    record({ trial: TRIAL, tries: 3 })
    overwrite(`releases/${TRIAL}/kernel`, Buffer.alloc(100_000, 7))
    const { console } = await select()
    expect(console).toContain(`${TRIAL} cannot be started: kexec_file_load: `)
    expect(console).toMatch(new RegExp(`started: .*flotilla.slot=${GOOD} `))
    expect(records()[1]).toMatchObject({ seq: 9, trial: TRIAL, tries: 0, loadFailed: true })
  })

  it('goes on with what runs when both records are torn, and begins new ones', async () => {
    overwrite('select.0', new Uint8Array(512))
    const { console } = await select()
    expect(console).toContain(`both boot records are damaged: ${GOOD} goes on`)
    expect(records()[0]).toMatchObject({ seq: 1, good: GOOD, trial: undefined, tries: 0 })
  })
})
