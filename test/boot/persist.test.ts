import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { writeDiskImage } from '../../builder/images/write-disk-image.ts'
import { copyAgent, imageSet, squash } from '../fleet/build-images.ts'
import { partitionsOf } from '../machine/boot-files.ts'
import { kernelOf } from '../machine/debian-trees.ts'
import { buildInitramfs, buildRoot } from './build-initramfs.ts'
import { runMachine } from './virtual-machine.ts'

const SLOT = '0123456789abcdef'
/** What a Buildroot image has of util-linux, e2fsprogs and OpenSSH. */
const PROGRAMS = ['mount', 'swapon', 'dd', 'blkid', 'sfdisk', 'partx', 'e2fsck', 'resize2fs', 'mkswap', 'ssh-keygen']
/** The agent's bundle in the image, as the system's unit runs it. */
const PREPARE = '/usr/bin/node /usr/lib/flotilla/flotilla-agent.mjs persist'
const SCRIPT = `
export PATH=/bin:/sbin:/usr/bin
$b mount -t tmpfs tmpfs /run
$b mount -t tmpfs tmpfs /tmp
${PREPARE} prepare --wait 3
${PREPARE} swap
echo "size: $($b df -m /mnt/persist | $b tail -1 | $b awk '{print $2}')"
for path in skiff/core skiff/keys skiff/ssh skiff/journal; do $b stat -c '%n %a' /mnt/persist/$path; done
echo "host: $($b cat /proc/sys/kernel/hostname) $($b cat /etc/from-persist)"
$b grep -c /var/log/journal /proc/mounts
$b sha256sum /etc/ssh/ssh_host_ed25519_key | $b cut -c1-16 | $b sed 's/^/hostkey: /'
$b cat /root/.ssh/authorized_keys
$b cat /proc/swaps /etc/issue.d/flotilla.issue
${PREPARE} status
$b sync
$b umount /var/log/journal /var/lib/docker /var/lib/containerd
$b swapoff /mnt/persist/skiff/swap
$b umount /mnt/persist && echo unmounted
$b poweroff -f`

let root: string
let kernel: string
let initramfs: string
let image: string

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'flotilla-persist-'))
  kernel = kernelOf('x86_64')
  initramfs = buildInitramfs(root)
  const device = join(root, 'device')
  const slot = join(device, 'boot/releases', SLOT)
  const tree = join(root, 'tree')
  mkdirSync(slot, { recursive: true })
  buildRoot(tree, SCRIPT)
  for (const path of [process.execPath, ...PROGRAMS.map(which)]) addProgram(tree, path)
  for (const name of ['run', 'root', 'var/log', 'var/lib', 'etc/flotilla', 'etc/ssh'])
    mkdirSync(join(tree, name), { recursive: true })
  writeFileSync(join(tree, 'etc/passwd'), 'root:x:0:0::/root:/bin/sh\n')
  writeFileSync(join(tree, 'etc/flotilla/swap'), '16\n')
  mkdirSync(join(tree, 'etc/skiff/authorized_keys'), { recursive: true })
  writeFileSync(join(tree, 'etc/skiff/authorized_keys/factory.pub'), 'ssh-ed25519 BBBB factory\n')
  writeFileSync(join(tree, 'etc/issue'), 'Flotilla\n')
  copyAgent(imageSet().agent, join(tree, 'usr/lib/flotilla'))
  squash(tree, join(slot, 'rootfs.squashfs'))
  writeFileSync(join(device, 'agent.yaml'), '')
  mkdirSync(join(device, 'persist'))
  image = join(root, 'disk.img')
  const layout = { table: 'gpt', raw: [], bootFiles: undefined } as const
  const sizes = { bootPartitionBytes: 400 * 2 ** 20, totalBytes: undefined }
  writeDiskImage({ layout, efi: false, device, images: root, file: image, ...sizes })
})

afterAll(() => rmSync(root, { recursive: true, force: true }))

function which(program: string): string {
  const found = ['/usr/bin', '/usr/sbin', '/bin', '/sbin']
    .map((path) => join(path, program))
    .find((path) => existsSync(path))
  if (found === undefined) throw new Error(`no ${program} here`)
  return found
}

/** The program and the libraries that it is linked with. */
function addProgram(tree: string, path: string): void {
  const target = join(tree, 'usr/bin', path === process.execPath ? 'node' : (path.split('/').at(-1) ?? ''))
  mkdirSync(dirname(target), { recursive: true })
  copyFileSync(path, target)
  for (const [, library = ''] of execFileSync('ldd', [path], { encoding: 'utf8' }).matchAll(/(\/\S+) \(0x/g)) {
    mkdirSync(dirname(join(tree, library)), { recursive: true })
    copyFileSync(library, join(tree, library))
  }
}

async function boot(disk: string, keep = false): Promise<string> {
  const { console, ended } = await runMachine({
    kernel,
    initramfs,
    commandLine: `flotilla.slot=${SLOT}`,
    disks: [disk],
    keep,
    memoryMiB: 512,
  })
  expect(ended, console).toBe(true)
  return console
}

/** The offset of the second partition. */
const persistOf = (disk: string): number => partitionsOf(disk)[1]?.start ?? 0

describe('the persist partition, in a virtual machine', () => {
  it('grows to its medium at the first boot, gets its tree, keys and swap, and keeps them at the next', async () => {
    const disk = join(root, 'card.img')
    copyFileSync(image, disk)
    truncateSync(disk, 1_024 * 2 ** 20)
    const first = await boot(disk, true)
    expect(first).toMatch(/grow partition 2 of \/dev\/vda to its end/)
    expect(Number(/size: (\d+)/.exec(first)?.[1])).toBeGreaterThan(500)
    for (const line of ['skiff/core 755', 'skiff/keys 700', 'skiff/ssh 700']) expect(first).toContain(`persist/${line}`)
    expect(first).toMatch(/\/mnt\/persist\/skiff\/swap\s+file\s+16380/)
    expect(first).toMatch(/ready \/dev\/vda2\r?\n.*unmounted/s)
    expect(first).not.toContain('problem:')
    const key = /hostkey: (\w+)/.exec(first)?.[1]
    expect(key).toMatch(/^\w{16}$/)
    const where = `${disk}?offset=${persistOf(disk)}`
    writeFileSync(join(root, 'hostname'), 'robot-7\n')
    writeFileSync(join(root, 'me.pub'), 'ssh-ed25519 AAAA operator\n')
    writeFileSync(join(root, 'from-persist'), 'of persist\n')
    const commands = [
      `write ${root}/hostname skiff/hostname`,
      `write ${root}/me.pub skiff/keys/me.pub`,
      `write ${root}/from-persist skiff/etc/from-persist`,
    ]
    execFileSync('/usr/sbin/debugfs', ['-w', '-f', '-', where], { input: commands.join('\n'), stdio: 'pipe' })
    const second = await boot(disk, true)
    expect(second).not.toMatch(/grow partition/)
    expect(/hostkey: (\w+)/.exec(second)?.[1]).toBe(key)
    expect(second).toContain('host: robot-7 of persist')
    expect(second).toContain('ssh-ed25519 AAAA operator')
    expect(second).not.toContain('problem:')
  })

  it('is not touched when it is damaged; the device comes up and says why', async () => {
    const disk = join(root, 'damaged.img')
    copyFileSync(image, disk)
    // A directory that is none: e2fsck -p leaves it to a person.
    const offset = persistOf(disk)
    execFileSync('/usr/sbin/debugfs', ['-w', '-f', '-', `${disk}?offset=${offset}`], {
      input: 'sif <2> mode 0100644\nssv state 0\n',
      stdio: 'pipe',
    })
    const console = await boot(disk, true)
    expect(console).toMatch(/problem: e2fsck -p \/dev\/vda2: .*\[DISK_FAILED\]/)
    expect(console).toMatch(/\nrescue/)
    const found = execFileSync('/usr/sbin/debugfs', ['-R', 'stat <2>', `${disk}?offset=${offset}`], {
      encoding: 'utf8',
      stdio: 'pipe',
    })
    expect(found).toMatch(/Type: regular/)
  })

  it('is waited for no longer than it may take; the device comes up without it', async () => {
    const disk = join(root, 'without.img')
    copyFileSync(image, disk)
    execFileSync('/usr/sbin/sfdisk', ['--quiet', '--delete', disk, '2'], { stdio: 'pipe' })
    const console = await boot(disk)
    // Who can log in is in the image then; why is above the prompt.
    expect(console).toContain('ssh-ed25519 BBBB factory')
    expect(console).toMatch(/This device runs WITHOUT its data \(rescue\)/)
    expect(console).toMatch(/problem: find persist: no file system is labelled persist after 3 s \[TIMEOUT\]/)
    expect(console).toMatch(/\nrescue/)
  })
})
