import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { BootControl } from '../../agent/slots/bootloaders/boot-control.ts'
import { chooseBootloader } from '../../agent/slots/bootloaders/choose-bootloader.ts'
import { NodeDisk } from '../../agent/store/node-disk.ts'
import { writeDiskImage } from '../../builder/images/write-disk-image.ts'
import { loaderFiles } from '../../builder/loaders/loader-files.ts'
import { slotFiles } from '../../protocol/boot/slot-files.ts'
import { PROVEN_MARKER, SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
import { changeBootFiles, copyImage, makeLoaderImages } from './boot-files.ts'
import { kernelOf } from './debian-trees.ts'
import { type LoaderFamily, Machine, type MachineOptions, VIRTUAL_BOARDS } from './virtual-board.ts'

export const GOOD = '0123456789abcdef'
export const TRIAL = 'fedcba9876543210'
/** Arguments that a loader's script could take for something else. */
const PLAIN = 'quiet panic=1 odd=a,b:c/d=e+f%g'
const TRIAL_SECONDS = 77
const BOOT_MS = 240_000

/** A whole release that only tells what it was started with, and resets the machine. */
const TELL = String.raw`
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>
int main(void)
{
	char line[2048];
	mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", 0, 0);
	int length = read(open("/proc/cmdline", O_RDONLY), line, sizeof line - 1);
	line[length > 0 ? length : 0] = 0;
	printf("\nSTARTED %s", line);
	fflush(stdout);
	sleep(1);
	return reboot(RB_AUTOBOOT);
}`

/** One family's disk with two releases, the real loader, and the real adapter on it. */
export class LoaderRig {
  readonly root: string
  readonly #family: LoaderFamily
  readonly #made: string
  #copies = 0

  constructor(family: LoaderFamily) {
    this.#family = family
    this.root = mkdtempSync(join(tmpdir(), `flotilla-${family}-`))
    this.#made = join(this.root, 'made.img')
    const { arch, layout, console } = VIRTUAL_BOARDS[family]
    const images = join(this.root, 'images')
    const device = join(this.root, 'device')
    makeLoaderImages(family, images)
    const initramfs = this.#makeInitramfs(arch)
    for (const slot of [GOOD, TRIAL]) {
      const directory = join(device, 'boot', SLOTS_DIRECTORY, slot)
      mkdirSync(directory, { recursive: true })
      copyFileSync(kernelOf(arch), join(directory, 'Image'))
      copyFileSync(initramfs, join(directory, 'initramfs.cpio.gz'))
      const names = { kernel: 'Image', initramfs: 'initramfs.cpio.gz', deviceTree: '' }
      const boot = { slot, ...names, commandLine: `console=${console} ${PLAIN}`, trialSeconds: TRIAL_SECONDS }
      for (const { name, bytes } of slotFiles(family, boot)) writeFileSync(join(directory, name), bytes)
      if (slot !== GOOD) continue
      writeFileSync(join(directory, PROVEN_MARKER), '')
      for (const { path, bytes } of loaderFiles(family, slot, boot, arch)) {
        mkdirSync(dirname(join(device, 'boot', path)), { recursive: true })
        writeFileSync(join(device, 'boot', path), bytes)
      }
    }
    mkdirSync(join(device, 'persist'))
    writeFileSync(join(device, 'agent.yaml'), '')
    const sizes = { bootPartitionBytes: undefined, totalBytes: undefined }
    writeDiskImage({ layout, efi: family === 'systemd-boot', device, images, file: this.#made, ...sizes })
  }

  #makeInitramfs(arch: 'x86_64' | 'aarch64'): string {
    const tree = join(this.root, 'initramfs')
    mkdirSync(tree)
    writeFileSync(join(this.root, 'tell.c'), TELL)
    const compiler = arch === 'aarch64' ? 'aarch64-linux-gnu-gcc' : 'gcc'
    execFileSync(compiler, ['-static', '-Os', '-s', '-o', join(tree, 'init'), join(this.root, 'tell.c')])
    const file = join(this.root, 'initramfs.cpio.gz')
    execFileSync('sh', ['-c', `cd '${tree}' && echo init | cpio --quiet -o -H newc | gzip -1 > '${file}'`])
    return file
  }

  /** A device as it comes from the factory. */
  newDisk(): string {
    const disk = join(this.root, `disk-${(this.#copies += 1)}.img`)
    copyImage(this.#made, disk)
    return disk
  }

  /**
   * Lets the machine run until it was started so often.
   * @returns what was started, in order: the slot, and `trial` behind it when it was told so
   */
  async run(disk: string, starts: number, options: Partial<MachineOptions> = {}): Promise<readonly string[]> {
    const machine = new Machine({ family: this.#family, disk, ...options })
    try {
      await machine.waitFor((console) => startsIn(console).length >= starts, BOOT_MS * starts)
      return startsIn(machine.console).slice(0, starts)
    } finally {
      await machine.cut()
    }
  }

  /** Lets the machine run until its console shows what is wanted. */
  async runUntil(disk: string, isSeen: (console: string) => boolean): Promise<void> {
    const machine = new Machine({ family: this.#family, disk })
    try {
      await machine.waitFor(isSeen, 2 * BOOT_MS)
    } finally {
      await machine.cut()
    }
  }

  /** Switches the machine on, and pulls the plug. */
  async cutAfter(disk: string, ms: number): Promise<void> {
    const machine = new Machine({ family: this.#family, disk })
    await new Promise((resolve) => setTimeout(resolve, ms))
    await machine.cut()
  }

  /** The agent's adapter on the disk of a machine that is off. */
  async control<T>(disk: string, booted: string, use: (control: BootControl) => Promise<T>): Promise<T> {
    let result: T | undefined
    await changeBootFiles(disk, async (directory) => {
      const area = new NodeDisk(directory)
      try {
        result = await use(chooseBootloader(this.#family, area, booted))
      } finally {
        await area.close()
      }
    })
    return result as T
  }

  /** A disk whose loader was seen to count, with the second release on trial. */
  async armed(tries: number): Promise<string> {
    const disk = this.newDisk()
    await this.run(disk, 1)
    await this.control(disk, GOOD, (control) => control.arm(TRIAL, tries))
    return disk
  }

  close(): void {
    rmSync(this.root, { recursive: true, force: true })
  }
}

/** Only whole lines whose arguments came as they were written. */
function startsIn(console: string): readonly string[] {
  return [...console.matchAll(/^STARTED (.*)\n/gm)].map(([, line = '']) => {
    const slot = /\bflotilla\.slot=(\w+)/.exec(line)?.[1] ?? 'no slot'
    const trial = /\bflotilla\.trial=(\d+)/.exec(line)?.[1]
    if (!line.includes(PLAIN)) return `other arguments: ${line}`
    return trial === undefined ? slot : `${slot} trial ${trial}`
  })
}

/** What `run` says of a release that knows that it is on trial. */
export const ON_TRIAL = `${TRIAL} trial ${TRIAL_SECONDS}`
