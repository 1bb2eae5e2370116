import { parseSlotBoot, type SlotBoot } from '../../../protocol/boot/slot-files.ts'
import { SLOTS_DIRECTORY } from '../../../protocol/boot/slot-layout.ts'
import { FlotillaError } from '../../../protocol/errors.ts'
import { type Disk, readSmallFile } from '../../store/disk.ts'

const MAX_BYTES = 4_096

/** What the loader needs to know of a slot, as it was written with it. @throws FlotillaError NOT_FOUND */
export async function readSlotBoot(disk: Disk, slot: string): Promise<SlotBoot> {
  const path = `${SLOTS_DIRECTORY}/${slot}/loader.env`
  const boot = parseSlotBoot(slot, (await readSmallFile(disk, path, MAX_BYTES)) ?? new Uint8Array())
  if (boot === undefined)
    throw new FlotillaError(
      'NOT_FOUND',
      `boot slot ${slot}: ${path} is missing or damaged; it says what the loader starts`,
    )
  return boot
}
