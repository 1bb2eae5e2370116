import { otherPlace, type PointerFormat, type PointerPlace } from '../../../protocol/boot/pointer-files.ts'
import { FlotillaError } from '../../../protocol/errors.ts'
import { type Disk, requireAsWritten } from '../../store/disk.ts'
import { readSlotBoot } from './slot-boot.ts'

/** The two places of a loader that reads only text, on a disk. */
export class PointerFiles {
  readonly #disk: Disk
  readonly #format: PointerFormat

  constructor(disk: Disk, format: PointerFormat) {
    this.#disk = disk
    this.#format = format
  }

  /** The place that counts. @throws FlotillaError DISK_FAILED for a file that is not as it was made */
  async selected(): Promise<PointerPlace> {
    const { switchPath, switchBytes, parseSwitch } = this.#format
    const place = parseSwitch(await this.#disk.read(switchPath, 0, switchBytes))
    if (place === undefined)
      throw new FlotillaError('DISK_FAILED', `read ${switchPath}: it is missing, or not as Flotilla made it`)
    return place
  }

  async slotAt(place: PointerPlace): Promise<string | undefined> {
    const { path, offset, lengthBytes } = this.#format.placeOf(place)
    return this.#format.parsePlace(await this.#disk.read(path, offset, lengthBytes))
  }

  /** Makes the place that does not count start a slot. @returns the place */
  async prepare(slot: string): Promise<PointerPlace> {
    const place = otherPlace(await this.selected())
    if ((await this.slotAt(place)) === slot) return place
    const { path, offset } = this.#format.placeOf(place)
    const bytes = this.#format.encodePlace(place, await readSlotBoot(this.#disk, slot))
    await this.#disk.write(path, offset, bytes)
    await this.#disk.flush(path)
    await requireAsWritten(this.#disk, path, bytes, offset)
    return place
  }

  /** Makes a slot the one that the loader starts: one character. */
  async select(slot: string): Promise<void> {
    if ((await this.slotAt(await this.selected())) === slot) return
    const { path, offset, bytes } = this.#format.writeSwitch(await this.prepare(slot))
    await this.#disk.write(path, offset, bytes)
    await this.#disk.flush(path)
  }
}
