import { BINARY_FORMAT } from '../../../protocol/boot/boot-record.ts'
import { EXTLINUX_FORMAT } from '../../../protocol/boot/pointer-files.ts'
import type { Disk } from '../../store/disk.ts'
import type { BootControl } from './boot-control.ts'
import { PointerFiles } from './pointer-files.ts'
import { RecordBoot } from './record-boot.ts'

/**
 * The extlinux family: a loader that reads a list of labels and counts nothing. It always starts the good slot's kernel; the
 * selector in that slot's initramfs (`flotilla-init`, flotilla.select=1) reads the boot record, takes a try, and starts the
 * slot on trial by kexec. A trial whose kernel does not come up ends in a reset, and the loader starts the good one again.
 * @see protocol/spec/slots.md, "extlinux"
 */
export class ExtlinuxBoot extends RecordBoot implements BootControl {
  readonly #files: PointerFiles

  constructor(disk: Disk, booted: string) {
    super(disk, booted, BINARY_FORMAT)
    this.#files = new PointerFiles(disk, EXTLINUX_FORMAT)
  }

  /** What the loader starts, whatever the record says. */
  override async good(): Promise<string> {
    return (await this.#files.slotAt(await this.#files.selected())) ?? this.current()
  }

  /** The label first: cut off after it the selector still finds the slot on trial, which is good by then. */
  override async markGood(slot: string): Promise<void> {
    await this.#files.select(slot)
    await super.markGood(slot)
  }
}
