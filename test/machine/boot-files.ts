import { execFileSync, spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { FIRST_PARTITION_BYTES } from '../../builder/layers/board.ts'
import { SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
import type { LoaderFamily } from './virtual-board.ts'

/** What GRUB's configuration needs, built into its core image; the layer pcengines/apu2 names the same. */
const GRUB_MODULES = 'biosdisk part_msdos fat linux loadenv test configfile normal echo true reboot sleep boot'.split(
  ' ',
)
const GRUB = '/usr/lib/grub/i386-pc'
const SYSTEMD_BOOT = '/usr/lib/systemd/boot/efi/systemd-bootx64.efi'

/** Makes what a build leaves of a board's loader, from Debian's packages. */
export function makeLoaderImages(family: LoaderFamily, images: string): void {
  mkdirSync(images, { recursive: true })
  if (family === 'systemd-boot') {
    mkdirSync(join(images, 'efi-part/EFI/BOOT'), { recursive: true })
    copyFileSync(SYSTEMD_BOOT, join(images, 'efi-part/EFI/BOOT/BOOTX64.EFI'))
  }
  if (family === 'extlinux') {
    mkdirSync(join(images, 'syslinux'), { recursive: true })
    copyFileSync('/usr/lib/syslinux/mbr/mbr.bin', join(images, 'mbr.bin'))
    // Its own file has another name; what it reads is the same.
    writeFileSync(join(images, 'syslinux/syslinux.cfg'), 'INCLUDE /extlinux/extlinux.conf\n')
  }
  if (family !== 'grub') return
  copyFileSync(join(GRUB, 'boot.img'), join(images, 'boot.img'))
  const prefix = '(hd0,msdos1)/boot/grub' // BR2_TARGET_GRUB2_BOOT_PARTITION
  execFileSync('grub-mkimage', [...['-O', 'i386-pc', '-p', prefix, '-o', join(images, 'grub.img')], ...GRUB_MODULES])
}

/** What a factory does with the finished image: SYSLINUX has to know the sectors where it lies. */
export function installLoader(family: LoaderFamily, image: string): void {
  if (family === 'extlinux')
    execFileSync('syslinux', ['--install', '--offset', String(FIRST_PARTITION_BYTES), image], { stdio: 'inherit' })
}

/** The boot partition of an image, for mtools. */
export function bootPartition(image: string): string {
  return `${image}@@${FIRST_PARTITION_BYTES}`
}

/** @returns undefined when there is no such file */
export function readBootFile(image: string, path: string): Buffer | undefined {
  try {
    return execFileSync('mtype', ['-i', bootPartition(image), `::${path}`], {
      maxBuffer: 2 ** 30,
      stdio: ['ignore', 'pipe', 'ignore'],
    })
  } catch {
    return undefined
  }
}

export function writeBootFile(image: string, path: string, bytes: Uint8Array): void {
  const directory = mkdtempSync(join(tmpdir(), 'flotilla-file-'))
  writeFileSync(join(directory, 'file'), bytes)
  execFileSync('mcopy', ['-o', '-i', bootPartition(image), join(directory, 'file'), `::${path}`])
  rmSync(directory, { recursive: true })
}

export function removeBootFile(image: string, path: string): void {
  execFileSync('mdel', ['-i', bootPartition(image), `::${path}`])
}

/**
 * Lets something change the small files of an image's boot partition as if it were mounted: copies them out, and back
 * those that are there afterwards. Kernels and roots stay where they are.
 */
export async function changeBootFiles(image: string, change: (directory: string) => Promise<void>): Promise<void> {
  const partition = bootPartition(image)
  const directory = mkdtempSync(join(tmpdir(), 'flotilla-area-'))
  try {
    for (const name of list(partition, '').filter((entry) => !['EFI', SLOTS_DIRECTORY].includes(entry)))
      execFileSync('mcopy', ['-s', '-i', partition, `::${name}`, directory])
    for (const slot of list(partition, SLOTS_DIRECTORY)) {
      mkdirSync(join(directory, SLOTS_DIRECTORY, slot), { recursive: true })
      for (const name of list(partition, `${SLOTS_DIRECTORY}/${slot}`).filter(isSmall))
        execFileSync('mcopy', [
          '-i',
          partition,
          `::${SLOTS_DIRECTORY}/${slot}/${name}`,
          join(directory, SLOTS_DIRECTORY, slot),
        ])
    }
    await change(directory)
    if (list(partition, '').includes('loader')) execFileSync('mdeltree', ['-i', partition, '::loader'])
    for (const name of readdirSync(directory))
      execFileSync('mcopy', ['-o', '-Q', '-s', '-i', partition, join(directory, name), '::'])
  } finally {
    rmSync(directory, { recursive: true })
  }
}

function isSmall(name: string): boolean {
  return /\.(env|cfg|json|txt)$|^proven$/.test(name)
}

/** Names in a directory of a FAT. */
function list(partition: string, path: string): readonly string[] {
  const text = execFileSync('mdir', ['-b', '-a', '-i', partition, `::${path}`], { encoding: 'latin1' })
  return text
    .split('\n')
    .map((line) => line.replace(/\/$/, '').split('/').at(-1) ?? '')
    .filter((name) => name !== '' && name !== ':' && name !== '::')
}

/** What fsck says of the boot partition, after it repaired what the agent has repaired when it starts; empty when all is well. */
export function checkBootPartition(image: string, scratch: string, isRepaired = false): string {
  const file = join(scratch, 'boot-partition.img')
  const { start, length } = bootExtent(image)
  execFileSync('dd', [
    `if=${image}`,
    `of=${file}`,
    'bs=1M',
    'iflag=skip_bytes,count_bytes',
    `skip=${start}`,
    `count=${length}`,
    'conv=sparse',
    'status=none',
  ])
  try {
    if (isRepaired) spawnSync('/usr/sbin/fsck.vfat', ['-a', '-w', file], { stdio: 'ignore' })
    execFileSync('/usr/sbin/fsck.vfat', ['-n', file], { stdio: 'pipe' })
    return ''
  } catch (error) {
    return String((error as { stdout?: Buffer }).stdout ?? error)
  } finally {
    rmSync(file)
  }
}

/** Where the boot partition lies, bytes. */
export function bootExtent(image: string): { readonly start: number; readonly length: number } {
  const { partitiontable } = JSON.parse(
    // It says on the way that a GPT does not reach the end of a disk that was made larger.
    execFileSync('/usr/sbin/sfdisk', ['--json', image], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }),
  ) as { partitiontable: { partitions: { start: number; size: number }[] } }
  const [first] = partitiontable.partitions
  if (first === undefined) throw new Error(`${image} has no partition`)
  return { start: first.start * 512, length: first.size * 512 }
}

/** A copy that takes no more room than what is in it. */
export function copyImage(from: string, to: string): void {
  execFileSync('cp', ['--sparse=always', from, to])
}
