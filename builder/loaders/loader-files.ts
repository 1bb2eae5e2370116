import { BINARY_FORMAT, firstBootRecords } from '../../protocol/boot/boot-record.ts'
import { emptyTrace, TRACE_PATH } from '../../protocol/boot/boot-trace.ts'
import { GRUB_FORMAT, UBOOT_FORMAT } from '../../protocol/boot/environment-record.ts'
import {
  CANARY_TRIES,
  type EfiMachine,
  encodeLoaderEntry,
  ENTRIES_DIRECTORY,
  trialEntryName,
} from '../../protocol/boot/loader-entry.ts'
import { encodeExtlinux, encodePiSelector, RASPBERRY_PI_FORMAT } from '../../protocol/boot/pointer-files.ts'
import { type BootFamily, readsSlotFiles, type SlotBoot } from '../../protocol/boot/slot-files.ts'
import { GRUB_CONFIG } from './grub-config.ts'
import { encodeScriptImage, type ScriptMachine } from './script-image.ts'
import { UBOOT_SCRIPT } from './uboot-script.ts'

/** A file of the boot area, relative to its root. */
export type LoaderFile = { readonly path: string; readonly bytes: Uint8Array }

/**
 * What the loader of a new device finds on its boot area besides the slot: the one place where every family's side is made.
 * All files that are ever overwritten exist from the start. Pure.
 * @param boot - the factory's release; undefined for families whose loader reads nothing in it
 * @param arch - of the board, as board.yaml names it
 */
export function loaderFiles(
  family: BootFamily,
  slot: string,
  boot: SlotBoot | undefined,
  arch: string,
): readonly LoaderFile[] {
  const trace = readsSlotFiles(family) ? [{ path: TRACE_PATH, bytes: emptyTrace() }] : []
  return [...trace, ...ofFamily(family, slot, boot, arch)]
}

function ofFamily(family: BootFamily, slot: string, boot: SlotBoot | undefined, arch: string): readonly LoaderFile[] {
  const needed = () => {
    if (boot === undefined) throw new Error(`${family} starts a kernel`)
    return boot
  }
  switch (family) {
    case 'systemd-boot':
      return systemdBoot(needed(), arch === 'aarch64' ? 'aa64' : 'x64')
    case 'uboot':
      return [
        {
          path: 'boot.scr',
          bytes: encodeScriptImage(UBOOT_SCRIPT, arch === 'aarch64' ? 'arm64' : ('arm' satisfies ScriptMachine)),
        },
        ...firstBootRecords(slot, UBOOT_FORMAT),
      ]
    case 'grub':
      return [text('boot/grub/grub.cfg', GRUB_CONFIG), ...firstBootRecords(slot, GRUB_FORMAT)]
    case 'raspberry-pi':
      return [
        { path: 'config.txt', bytes: encodePiSelector('a') },
        { path: 'tryboot.txt', bytes: encodePiSelector('b') },
        ...(['a', 'b'] as const).map((place) => ({
          path: RASPBERRY_PI_FORMAT.placeOf(place).path,
          bytes: RASPBERRY_PI_FORMAT.encodePlace(place, needed()),
        })),
        ...firstBootRecords(slot, BINARY_FORMAT),
      ]
    case 'extlinux':
      return [
        { path: 'extlinux/extlinux.conf', bytes: encodeExtlinux(needed()) },
        ...firstBootRecords(slot, BINARY_FORMAT),
      ]
    case 'container':
    case 'directory':
      return firstBootRecords(slot, BINARY_FORMAT)
  }
}

function systemdBoot(boot: SlotBoot, machine: EfiMachine): readonly LoaderFile[] {
  const entry = (name: string, version: number, enabled: boolean, kind: 'good' | 'canary'): LoaderFile => ({
    path: `${ENTRIES_DIRECTORY}/${name}`,
    bytes: encodeLoaderEntry({ version, enabled, kind, boot }, machine),
  })
  return [
    text('loader/loader.conf', 'timeout 0\neditor no\nauto-entries no\n'),
    entry('flotilla-a.conf', 1, true, 'good'),
    entry('flotilla-b.conf', 0, false, 'good'),
    entry(trialEntryName(CANARY_TRIES, 0), 0, true, 'canary'),
    // Firmware that finds a kernel damaged may end in its shell, and would wait there for ever.
    text('startup.nsh', 'reset\r\n'),
  ]
}

function text(path: string, content: string): LoaderFile {
  return { path, bytes: Buffer.from(content, 'latin1') }
}
