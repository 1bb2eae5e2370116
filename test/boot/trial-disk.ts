import { createHash } from 'node:crypto'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach } from 'vitest'
import { writeDiskImage } from '../../builder/images/write-disk-image.ts'
import { type BootRecord, encodeBootRecord, freshRecord, parseBootRecord } from '../../protocol/boot/boot-record.ts'
import { type BootTrace, emptyTrace, parseTrace } from '../../protocol/boot/boot-trace.ts'
import { slotFiles } from '../../protocol/boot/slot-files.ts'
import { squash } from '../fleet/build-images.ts'
import { checkBootPartition, readBootFile, writeBootFile } from '../machine/boot-files.ts'
import { kernelOf } from '../machine/debian-trees.ts'
import { buildInitramfs, buildRoot } from './build-initramfs.ts'
import { type MachineRun, runMachine } from './virtual-machine.ts'

export const GOOD = '0123456789abcdef'
export const TRIAL = 'fedcba9876543210'
export const STUCK = '00000000000000aa'
export const COMMAND_LINE = 'console=ttyS0 quiet panic=1 mitigations=off'
const REPORT = `
echo "started: $($b cat /proc/cmdline)"
echo "traced: $($b sed -n 3p /boot/trace)"
echo "guard: $($b cat /proc/$FLOTILLA_GUARD/comm 2>/dev/null)"
$b sleep 1
$b poweroff -f`

/** A disk for the tests of a file, as it was made before each of them. @returns what gives it, once they run */
export function useTrialDisk(): () => TrialDisk {
  let disk: TrialDisk | undefined
  const made = () => {
    if (disk === undefined) throw new Error('the disk is there only in tests')
    return disk
  }
  beforeAll(() => {
    disk = new TrialDisk()
  }, 120_000)
  beforeEach(() => made().reset())
  afterAll(() => disk?.close())
  return made
}

/** A disk with three releases, of which one hangs, that `flotilla-init` starts without a boot loader. */
class TrialDisk {
  readonly #root = mkdtempSync(join(tmpdir(), 'flotilla-trial-'))
  readonly #kernel = kernelOf('x86_64')
  readonly #initramfs: string
  readonly #made: string
  readonly #disk: string

  constructor() {
    const root = this.#root
    const kernel = this.#kernel
    const initramfs = buildInitramfs(root)
    this.#initramfs = initramfs
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
    this.#made = join(root, 'made.img')
    const layout = { table: 'gpt', raw: [], bootFiles: undefined } as const
    const sizes = { bootPartitionBytes: undefined, totalBytes: undefined }
    writeDiskImage({ layout, efi: true, device, images: root, file: this.#made, ...sizes })
    this.#disk = join(root, 'disk.img')
    this.reset()
  }

  /** As it was made. */
  reset(): void {
    copyFileSync(this.#made, this.#disk)
  }

  boot(commandLine: string): Promise<MachineRun> {
    const files = { kernel: this.#kernel, initramfs: this.#initramfs, disks: [this.#disk] }
    return runMachine({ ...files, commandLine, keep: true, timeoutMs: 90_000 })
  }

  read(path: string): Buffer {
    return readBootFile(this.#disk, path) ?? Buffer.alloc(0)
  }

  overwrite(path: string, bytes: Uint8Array): void {
    writeBootFile(this.#disk, path, bytes)
  }

  trace(): BootTrace | undefined {
    return parseTrace(this.read('trace'))
  }

  /** What fsck says; empty when all is well. */
  check(): string {
    return checkBootPartition(this.#disk, this.#root)
  }

  setRecord(change: Partial<BootRecord>): void {
    this.overwrite('select.0', encodeBootRecord({ ...freshRecord(GOOD), seq: 6 }))
    this.overwrite('select.1', encodeBootRecord({ ...freshRecord(GOOD), seq: 7, ...change }))
  }

  records(): readonly (BootRecord | undefined)[] {
    return [parseBootRecord(this.read('select.0')), parseBootRecord(this.read('select.1'))]
  }

  close(): void {
    rmSync(this.#root, { recursive: true, force: true })
  }
}
