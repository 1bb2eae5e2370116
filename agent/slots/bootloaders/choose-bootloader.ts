import { readFile } from 'node:fs/promises'
import { BINARY_FORMAT } from '../../../protocol/boot/boot-record.ts'
import { GRUB_FORMAT, UBOOT_FORMAT } from '../../../protocol/boot/environment-record.ts'
import type { BootFamily } from '../../../protocol/boot/slot-files.ts'
import type { Disk } from '../../store/disk.ts'
import type { BootControl } from './boot-control.ts'
import { ExtlinuxBoot } from './extlinux.ts'
import { RaspberryPiBoot } from './raspberry-pi.ts'
import { RecordBoot } from './record-boot.ts'
import { SystemdBoot } from './systemd-boot.ts'

/** Bootloaders on Pi 4 and 5 before this know no trial boots and ignore the request (facts/ota-systems.md C2). */
const TRYBOOT_SINCE_S = Date.UTC(2022, 9, 18) / 1_000
const PI_BUILD_TIMESTAMP = '/proc/device-tree/chosen/bootloader/build-timestamp'

/** The adapter of a boot family. @param booted - the slot that the kernel was started with */
export function chooseBootloader(family: BootFamily, disk: Disk, booted: string): BootControl {
  switch (family) {
    case 'systemd-boot':
      return new SystemdBoot(disk, booted, process.arch === 'arm64' ? 'aa64' : 'x64')
    case 'uboot':
      return new RecordBoot(disk, booted, UBOOT_FORMAT)
    case 'grub':
      return new RecordBoot(disk, booted, GRUB_FORMAT)
    case 'raspberry-pi':
      return new RaspberryPiBoot(disk, booted, () => readPiProblem(PI_BUILD_TIMESTAMP))
    case 'extlinux':
      return new ExtlinuxBoot(disk, booted)
    case 'container':
    case 'directory':
      return new RecordBoot(disk, booted, BINARY_FORMAT)
  }
}

/**
 * Why the Pi's bootloader cannot be trusted with a trial boot. Boards before the Pi 4 have no such property: their firmware
 * is start.elf on the boot partition, which came with the image.
 * @param path - of the property that says when the bootloader was built, seconds since 1970, big-endian
 */
export async function readPiProblem(path: string): Promise<string | undefined> {
  const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
  if (bytes === undefined) return undefined
  const builtS = bytes.length === 4 ? bytes.readUInt32BE() : 0
  if (builtS >= TRYBOOT_SINCE_S) return undefined
  const built = new Date(builtS * 1_000).toISOString().slice(0, 10)
  return `its bootloader of ${built} knows no trial boots (2022-10-18 or newer is needed; update it with rpi-eeprom-update)`
}
