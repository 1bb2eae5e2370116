import { writeFile } from 'node:fs/promises'
import { FlotillaError, isFlotillaError, messageOf } from '../../protocol/errors.ts'
import { type Mount, readMounts } from '../persist/mounts.ts'
import { runProgram } from '../persist/run-program.ts'
import { SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
import type { Disk } from './disk.ts'
import { NodeDisk } from './node-disk.ts'

/** The partition goes back to read-only when nothing was written for so long. */
const IDLE_MS = 10_000
const REMOUNT_TIMEOUT_MS = 120_000
/** Entries of four sectors: what one change of a directory can leave unwritten. */
const FILLERS = 64

/**
 * The boot area. Where it is a partition of its own that the initramfs mounted read-only, it is writable only while something is
 * written: Linux marks a FAT as dirty for as long as it is mounted writable, and what is not mounted writable cannot be
 * damaged by a bug or a power cut. Elsewhere it is a directory like any other.
 */
export class BootArea implements Disk {
  readonly #disk: NodeDisk
  readonly #path: string
  readonly #mount: Mount | undefined
  #writable = false
  /** Changes that are under way. */
  #changes = 0
  #timer: NodeJS.Timeout | undefined
  /** Remounts, one after the other. */
  #queue: Promise<void> = Promise.resolve()

  private constructor(path: string, mount: Mount | undefined) {
    this.#path = path
    this.#mount = mount
    this.#disk = new NodeDisk(path)
  }

  /** Looks how the area is mounted. One that an agent which died left writable goes back to read-only. */
  static async open(path: string): Promise<BootArea> {
    const mount = (await readMounts()).findLast(({ at }) => at === path)
    const isOurs = mount?.type === 'vfat' || mount?.options.includes('ro') === true
    const area = new BootArea(path, isOurs ? mount : undefined)
    if (!isOurs || mount.options.includes('ro')) return area
    area.#writable = true
    await area.#leave()
    return area
  }

  /**
   * Repairs what a power cut leaves: lost clusters, the dirty mark. Nothing that boots is touched: what a proven release boots
   * from is never written. Call while nothing is written.
   * @returns what was repaired, empty when all was well
   */
  async repair(): Promise<string> {
    if (this.#mount?.type !== 'vfat' || this.#writable) return ''
    const { device } = this.#mount
    const before = await this.#findProblem()
    if (before === undefined) return ''
    await runProgram('fsck.vfat', ['-a', '-w', device], { okCodes: [0, 1], timeoutMs: REMOUNT_TIMEOUT_MS })
    // The file system is mounted: what the kernel remembers of names and chains may be as they were.
    await writeFile('/proc/sys/vm/drop_caches', '2').catch(() => {})
    await this.#closeHoles()
    return before
  }

  /**
   * A power cut may leave the second sector of a directory written and the first not: an end mark (0x00) with names behind it.
   * Linux and fsck read on behind such a mark; GRUB, U-Boot and UEFI do not, and never see what is put there afterwards. Names of
   * one entry take the first free ones and leave them marked as deleted (0xE5), which all of them skip.
   * @see Microsoft, "FAT32 File System Specification", DIR_Name[0]; Linux, `fat_add_entries`
   */
  async #closeHoles(): Promise<void> {
    const slots = (await this.list(SLOTS_DIRECTORY)).filter((name) => !/^FILL\d+\.TMP$/i.test(name))
    const isProven = async (slot: string) => (await this.length(`${SLOTS_DIRECTORY}/${slot}/proven`)) !== undefined
    const unproven: string[] = []
    for (const slot of slots) if (!(await isProven(slot))) unproven.push(`${SLOTS_DIRECTORY}/${slot}`)
    for (const directory of slots.length === 0 ? [] : [SLOTS_DIRECTORY, ...unproven]) {
      // Upper case and short: Linux needs one entry for it.
      const fillers = Array.from({ length: FILLERS }, (_, at) => `${directory}/FILL${at}.TMP`)
      try {
        for (const filler of fillers) await this.allocate(filler, 0)
      } catch (error) {
        // No room for a longer directory: then every entry of it is taken.
        if (!isFlotillaError(error, 'NOT_ENOUGH_SPACE')) throw error
      }
      for (const filler of fillers) await this.remove(filler)
      await this.flushDirectory(directory)
    }
  }

  /** @throws FlotillaError DISK_FAILED when the file system is not sound, so that nothing is written to it */
  async requireSound(): Promise<void> {
    if (this.#mount?.type !== 'vfat' || this.#writable) return
    const problem = await this.#findProblem()
    if (problem !== undefined)
      throw new FlotillaError(
        'DISK_FAILED',
        `write to ${this.#path}: the file system on ${this.#mount.device} is damaged (${problem}), and writing could damage more; reboot to have it repaired, or run fsck.vfat`,
      )
  }

  async #findProblem(): Promise<string | undefined> {
    try {
      await runProgram('fsck.vfat', ['-n', this.#mount?.device ?? ''], { timeoutMs: REMOUNT_TIMEOUT_MS })
      return undefined
    } catch (error) {
      return messageOf(error)
    }
  }

  makeDirectory(path: string): Promise<void> {
    return this.#change(() => this.#disk.makeDirectory(path))
  }

  allocate(path: string, lengthBytes: number): Promise<void> {
    return this.#change(() => this.#disk.allocate(path, lengthBytes))
  }

  write(path: string, offset: number, bytes: Uint8Array): Promise<void> {
    return this.#change(() => this.#disk.write(path, offset, bytes))
  }

  read(path: string, offset: number, lengthBytes: number): Promise<Uint8Array | undefined> {
    return this.#disk.read(path, offset, lengthBytes)
  }

  length(path: string): Promise<number | undefined> {
    return this.#disk.length(path)
  }

  flush(path: string): Promise<void> {
    return this.#change(() => this.#disk.flush(path))
  }

  /** On FAT what a name stands for is written with the file, not with the directory: all of it goes to the medium. */
  flushDirectory(path: string): Promise<void> {
    return this.#change(async () => {
      await this.#disk.flushDirectory(path)
      if (this.#mount !== undefined) await runProgram('sync', ['-f', this.#path], { timeoutMs: REMOUNT_TIMEOUT_MS })
    })
  }

  dropCache(path: string): Promise<void> {
    return this.#disk.dropCache(path)
  }

  rename(from: string, to: string): Promise<void> {
    return this.#change(() => this.#disk.rename(from, to))
  }

  remove(path: string): Promise<void> {
    return this.#change(() => this.#disk.remove(path))
  }

  list(path: string): Promise<readonly string[]> {
    return this.#disk.list(path)
  }

  freeBytes(): Promise<number> {
    return this.#disk.freeBytes()
  }

  /** Leaves the partition read-only. */
  async close(): Promise<void> {
    clearTimeout(this.#timer)
    await this.#disk.close()
    if (this.#mount !== undefined) await this.#remount('ro')
  }

  async #change<T>(action: () => Promise<T>): Promise<T> {
    if (this.#mount === undefined) return action()
    clearTimeout(this.#timer)
    this.#changes += 1
    try {
      await this.#remount('rw')
      return await action()
    } finally {
      this.#changes -= 1
      clearTimeout(this.#timer)
      this.#timer = setTimeout(() => void this.#leave(), IDLE_MS)
      this.#timer.unref()
    }
  }

  /** What cannot be left now is left after the next change. */
  async #leave(): Promise<void> {
    if (this.#changes === 0) await this.#remount('ro').catch(() => {})
  }

  #remount(how: 'rw' | 'ro'): Promise<void> {
    const run = this.#queue.then(async () => {
      if (this.#writable === (how === 'rw')) return
      if (how === 'ro' && this.#changes > 0) return
      // A file that was opened before cannot be written to after, and one that is open for writing keeps it writable.
      await this.#disk.close()
      try {
        await runProgram('mount', ['-o', `remount,${how}`, this.#path], { timeoutMs: REMOUNT_TIMEOUT_MS })
      } catch (cause) {
        throw new FlotillaError(
          'DISK_FAILED',
          `make ${this.#path} ${how === 'rw' ? 'writable' : 'read-only'}: ${messageOf(cause)}; is its medium write-protected or failing?`,
          { cause },
        )
      }
      this.#writable = how === 'rw'
    })
    this.#queue = run.catch(() => {})
    return run
  }
}
