import { execFileSync, spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { FIRST_PARTITION_BYTES } from '../../builder/layers/board.ts'
import { SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
import { ROOT } from '../setup/gates.ts'
import type { LoaderFamily } from './virtual-board.ts'

const GRUB_LAYER = join(ROOT, 'configs/pcengines/apu2/buildroot/config')
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
  execFileSync('grub-mkimage', [
    ...['-O', 'i386-pc', '-p', prefix, '-o', join(images, 'grub.img')],
    ...settingIn(GRUB_LAYER, 'BR2_TARGET_GRUB2_BUILTIN_MODULES_PC').split(' '),
  ])
}

/** The text of a setting in a layer. */
function settingIn(file: string, name: string): string {
  const text = new RegExp(`^${name}="(.*)"$`, 'm').exec(readFileSync(file, 'utf8'))?.[1]
  if (text === undefined) throw new Error(`${file} does not set ${name}`)
  return text
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

/** A partition of an image, bytes. */
export type Partition = {
  readonly start: number
  readonly length: number
  readonly uuid: string
  readonly name: string
}

/** The partitions of an image, in order. */
export function partitionsOf(image: string): readonly Partition[] {
  const { partitiontable } = JSON.parse(
    // It says on the way that a GPT does not reach the end of a disk that was made larger.
    execFileSync('/usr/sbin/sfdisk', ['--json', image], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }),
  ) as { partitiontable: { partitions: { start: number; size: number; uuid?: string; name?: string }[] } }
  return partitiontable.partitions.map(({ start, size, uuid = '', name = '' }) => ({
    start: start * 512,
    length: size * 512,
    uuid,
    name,
  }))
}

/** Where the boot partition lies. */
export function bootExtent(image: string): Partition {
  const [first] = partitionsOf(image)
  if (first === undefined) throw new Error(`${image} has no partition`)
  return first
}

/** A copy that takes no more room than what is in it. */
export function copyImage(from: string, to: string): void {
  execFileSync('cp', ['--sparse=always', from, to])
}
