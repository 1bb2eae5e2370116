import { BINARY_FORMAT } from '../../../protocol/boot/boot-record.ts'
import { RASPBERRY_PI_FORMAT, trybootSwitch } from '../../../protocol/boot/pointer-files.ts'
import { FlotillaError } from '../../../protocol/errors.ts'
import type { Disk } from '../../store/disk.ts'
import { type BootControl, requireNotGood } from './boot-control.ts'
import { PointerFiles } from './pointer-files.ts'
import { markProven, RecordBoot } from './record-boot.ts'

/** What the firmware can do, undefined when it can boot on trial; else why it is not trusted to. */
export type TrybootProblem = () => Promise<string | undefined>

/** The argument of the reboot system call that makes the firmware read tryboot.txt once. */
export const TRYBOOT_ARGUMENT = '0 tryboot'

/**
 * The Raspberry Pi family. config.txt starts the good slot; a reboot that asks for it reads tryboot.txt once, and whatever
 * ends that boot leads back to config.txt. The firmware cannot count: the agent does, before each reboot that asks for a try.
 * @see facts/ota-systems.md C2; protocol/spec/slots.md, "Raspberry Pi"
 */
export class RaspberryPiBoot implements BootControl {
  readonly oneShot = true
  readonly #disk: Disk
  readonly #booted: string
  readonly #files: PointerFiles
  readonly #problem: TrybootProblem
  /** Only the tries and the name on trial: what is good stands in config.txt. */
  readonly #record: RecordBoot

  constructor(disk: Disk, booted: string, problem: TrybootProblem) {
    this.#disk = disk
    this.#booted = booted
    this.#problem = problem
    this.#files = new PointerFiles(disk, RASPBERRY_PI_FORMAT)
    this.#record = new RecordBoot(disk, booted, BINARY_FORMAT, 'agent')
  }

  current(): string {
    return this.#booted
  }

  async good(): Promise<string> {
    return (await this.#files.slotAt(await this.#files.selected())) ?? this.#booted
  }

  async invalidate(slot: string): Promise<void> {
    requireNotGood(await this.good(), slot)
    await this.#record.markBad(slot)
  }

  async arm(slot: string, tries: number): Promise<void> {
    await this.requireCounting()
    const { path, offset, bytes } = trybootSwitch(await this.#files.prepare(slot))
    await this.#disk.write(path, offset, bytes)
    await this.#disk.flush(path)
    await this.#record.arm(slot, tries)
  }

  async markGood(slot: string): Promise<void> {
    await markProven(this.#disk, slot)
    await this.#files.select(slot)
    await this.#record.markGood(slot)
  }

  markBad(slot: string): Promise<void> {
    return this.#record.markBad(slot)
  }

  remaining(slot: string): Promise<number | undefined> {
    return this.#record.remaining(slot)
  }

  async counterMoves(): Promise<boolean> {
    return (await this.#problem()) === undefined
  }

  async requireCounting(): Promise<void> {
    const problem = await this.#problem()
    if (problem !== undefined)
      throw new FlotillaError('BOOT_COUNTER_STUCK', `update: ${problem}, so falling back cannot be relied on`)
  }

  loadFailed(): Promise<boolean> {
    return Promise.resolve(false)
  }

  settle(): Promise<void> {
    return Promise.resolve()
  }

  /** Takes a try before it is made, so that a power cut on the way costs one and never gives one. */
  async prepareReboot(): Promise<string | undefined> {
    return (await this.#record.takeTry()) === undefined ? undefined : TRYBOOT_ARGUMENT
  }
}
