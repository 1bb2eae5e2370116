import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { writeDiskImage } from '../../builder/images/write-disk-image.ts'
import { squash } from '../fleet/build-images.ts'
import { partitionsOf } from '../machine/boot-files.ts'
import { kernelOf } from '../machine/debian-trees.ts'
import { buildInitramfs, buildRoot } from './build-initramfs.ts'
import { runMachine } from './virtual-machine.ts'

const SLOT = '0123456789abcdef'
const CUT = 'fedcba9876543210'
const STUCK = '00000000000000aa'
/** Tells what a release finds when it starts. */
const REPORT = `
echo "pid $$"
$b grep -E ' (/|/boot|/usr/lib/modules) ' /proc/mounts
echo changed > /etc/changed && echo "root takes changes"
touch /boot/x 2>/dev/null || echo "boot is read-only"
echo "modules: $($b cat /usr/lib/modules/marker)"
echo "cmdline slot: $($b sed 's/.*flotilla.slot=//; s/ .*//' /proc/cmdline)"
echo "machine: $($b cat /etc/machine-id)"
$b test -e /init || echo "initramfs is gone"
$b poweroff -f`

let root: string
let kernel: string
let initramfs: string
let disk: string
let stick: string

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'flotilla-boot-'))
  kernel = kernelOf('x86_64')
  initramfs = buildInitramfs(root)
  const device = join(root, 'device')
  for (const [slot, script] of [
    [SLOT, REPORT],
    [CUT, REPORT],
    [STUCK, '$b sleep 3600'],
  ] as const) {
    const directory = join(device, 'boot/releases', slot)
    mkdirSync(directory, { recursive: true })
    buildRoot(join(root, slot), script)
    squash(join(root, slot), join(directory, 'rootfs.squashfs'))
    mkdirSync(join(root, 'modules'), { recursive: true })
    writeFileSync(join(root, 'modules/marker'), 'of this kernel\n')
    squash(join(root, 'modules'), join(directory, 'modules.squashfs'))
  }
  truncateSync(join(device, 'boot/releases', CUT, 'rootfs.squashfs'), 100_000)
  writeFileSync(join(device, 'boot/machine-id'), `${'0123456789abcdef'.repeat(2)}\n`)
  mkdirSync(join(device, 'persist'))
  writeFileSync(join(device, 'agent.yaml'), '')
  disk = join(root, 'disk.img')
  stick = join(root, 'stick.img')
  const layout = { table: 'gpt', raw: [], bootFiles: undefined } as const
  const sizes = { bootPartitionBytes: undefined, totalBytes: undefined }
  writeDiskImage({ layout, efi: true, device, images: root, file: disk, ...sizes })
  const other = join(root, 'other')
  mkdirSync(join(other, 'boot/releases'), { recursive: true })
  mkdirSync(join(other, 'persist'))
  writeFileSync(join(other, 'agent.yaml'), '')
  writeDiskImage({ layout, efi: true, device: other, images: root, file: stick, ...sizes })
})

afterAll(() => rmSync(root, { recursive: true, force: true }))

const boot = (commandLine: string, disks = [disk]) => runMachine({ kernel, initramfs, commandLine, disks })

describe('flotilla-init, in a virtual machine', () => {
  it('starts the release of the slot: its root below a tmpfs, its modules, the boot partition read-only', async () => {
    const { console, ended } = await boot(`flotilla.slot=${SLOT}`)
    expect(console).toContain(`flotilla-init: slot ${SLOT} from LABEL=BOOT`)
    expect(console).toMatch(/root \/ overlay rw/)
    expect(console).toMatch(/\/dev\/vda1 \/boot vfat ro/)
    expect(console).toMatch(/\/dev\/loop\d \/usr\/lib\/modules squashfs ro/)
    for (const line of ['pid 1', 'root takes changes', 'boot is read-only', 'modules: of this kernel'])
      expect(console).toContain(line)
    expect(console).toContain(`cmdline slot: ${SLOT}`)
    expect(console).toContain(`machine: ${SLOT}${SLOT}`)
    expect(console).toContain('initramfs is gone')
    expect(ended).toBe(true)
  })

  it('finds the partition by the name or the id that the table gives it', async () => {
    const [first] = partitionsOf(disk)
    expect((await boot(`flotilla.slot=${SLOT} flotilla.boot=PARTLABEL=boot`)).console).toContain('root takes changes')
    const byId = await boot(`flotilla.slot=${SLOT} flotilla.boot=PARTUUID=${first?.uuid} flotilla.wait=1`)
    // The kernel tells the id of a partition since 6.10; an older one says that there is none, and does not hang.
    expect(byId.console).toMatch(/root takes changes|cannot start: PARTUUID=\S+ within 1 s: no such partition/)
    expect(byId.ended).toBe(true)
  })

  it.concurrent.each([
    ['a root that was cut', `flotilla.slot=${CUT}`, /cannot start: .*squashfs|cannot start: mount/],
    [
      'a slot that is not there',
      'flotilla.slot=0000000000000000 flotilla.wait=1',
      /vda1 has no releases\/0{16}\/rootfs.squashfs/,
    ],
    ['a slot with a path in it', 'flotilla.slot=../../../../etc', /cannot start: flotilla.slot=/],
    ['no slot', '', /cannot start: flotilla.slot= is not 16 hexadecimal digits/],
    [
      'a partition that never comes',
      `flotilla.slot=${SLOT} flotilla.boot=LABEL=OTHER flotilla.wait=1`,
      /cannot start: LABEL=OTHER within 1 s: no such partition/,
    ],
    [
      'an init that is not there',
      `flotilla.slot=${SLOT} flotilla.init=/sbin/none`,
      /cannot start: start \/sbin\/none: No such file/,
    ],
  ])('says why and reboots, so that the loader falls back: %s', async (_what, commandLine, words) => {
    const { console, ended } = await boot(commandLine)
    expect(console).toMatch(words)
    expect(console).toContain('reboot in 5 s')
    expect(ended).toBe(true)
    expect(console).not.toContain('Kernel panic')
  })

  it('passes by a stick with the same label that does not have the slot', async () => {
    const { console } = await boot(`flotilla.slot=${SLOT}`, [stick, disk])
    expect(console).toMatch(/\/dev\/vdb1 \/boot vfat ro/)
    expect(console).toContain('root takes changes')
  })

  it('leaves an armed watchdog behind: a release that does nothing is reset', async () => {
    const armed = await boot(`flotilla.slot=${STUCK} flotilla.watchdog=5`)
    expect(armed.console).toContain(`slot ${STUCK}`)
    expect(armed.console).not.toContain('Kernel panic')
    expect(armed.ended).toBe(true)
    const idle = await runMachine({
      kernel,
      initramfs,
      commandLine: `flotilla.slot=${STUCK}`,
      disks: [disk],
      timeoutMs: 20_000,
    })
    expect(idle.console).toContain(`slot ${STUCK}`)
    expect(idle.ended).toBe(false)
  })
})
