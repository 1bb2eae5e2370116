import { SLOTS_DIRECTORY } from './slot-layout.ts'
import { kernelArguments, type SlotBoot } from './slot-files.ts'

/**
 * Loaders that read only text and cannot count: the Raspberry Pi's firmware and extlinux. Two places, `a` and `b`, say how a
 * slot is started; one character says which of them counts. The place that does not count is overwritten first, so
 * that the switch is a write that a torn sector cannot spoil.
 * @see protocol/spec/slots.md, "Raspberry Pi" and "extlinux"
 */
export type PointerPlace = 'a' | 'b'

export function otherPlace(place: PointerPlace): PointerPlace {
  return place === 'a' ? 'b' : 'a'
}

/** A range of a file, to be overwritten in place. */
export type PointerWrite = { readonly path: string; readonly offset: number; readonly bytes: Uint8Array }

/** How a family writes its two places. */
export type PointerFormat = {
  /** The file with the character that counts. */
  readonly switchPath: string
  readonly switchBytes: number
  /** Which place counts; undefined for a file that is not ours. */
  readonly parseSwitch: (bytes: Uint8Array | undefined) => PointerPlace | undefined
  readonly writeSwitch: (place: PointerPlace) => PointerWrite
  readonly placeOf: (place: PointerPlace) => {
    readonly path: string
    readonly offset: number
    readonly lengthBytes: number
  }
  readonly encodePlace: (place: PointerPlace, boot: SlotBoot) => Uint8Array
  /** The slot that a place starts. */
  readonly parsePlace: (bytes: Uint8Array | undefined) => string | undefined
}

const SECTOR = 512
const EXTLINUX_PATH = 'extlinux/extlinux.conf'
const LABEL_BYTES = 1_536
const PI_SWITCH = 'include slot-'

/** The Pi's firmware reads config.txt, or tryboot.txt once after a reboot that asked for it. */
export const RASPBERRY_PI_FORMAT: PointerFormat = {
  switchPath: 'config.txt',
  switchBytes: SECTOR,
  parseSwitch: (bytes) => {
    const found = /^include slot-([ab])\.txt$/m.exec(latin(bytes))?.[1]
    return found === 'a' || found === 'b' ? found : undefined
  },
  writeSwitch: (place) => piSwitch('config.txt', place),
  placeOf: (place) => ({ path: `slot-${place}.txt`, offset: 0, lengthBytes: SECTOR }),
  encodePlace: (_place, { slot, kernel, initramfs, deviceTree }) =>
    padded(
      [
        `os_prefix=${SLOTS_DIRECTORY}/${slot}/`,
        `kernel=${kernel}`,
        ...(initramfs === '' ? [] : [`initramfs ${initramfs} followkernel`]),
        ...(deviceTree === '' ? [] : [`device_tree=${deviceTree}`]),
        'cmdline=cmdline.txt',
      ].join('\n'),
      SECTOR,
    ),
  parsePlace: (bytes) => /^os_prefix=releases\/([0-9a-f]{16})\/$/m.exec(latin(bytes))?.[1],
}

/** The character of tryboot.txt. */
export function trybootSwitch(place: PointerPlace): PointerWrite {
  return piSwitch('tryboot.txt', place)
}

/** config.txt or tryboot.txt: what the board needs stands in board.txt. */
export function encodePiSelector(place: PointerPlace): Uint8Array {
  return padded(
    `# Which release boots; what the board needs is in board.txt.\ninclude board.txt\n${PI_SWITCH}${place}.txt`,
    SECTOR,
  )
}

function piSwitch(path: string, place: PointerPlace): PointerWrite {
  const offset = latin(encodePiSelector('a')).indexOf(PI_SWITCH) + PI_SWITCH.length
  return { path, offset, bytes: Buffer.from(place) }
}

/** U-Boot's extlinux.conf: the default label, then one label in each sector-aligned place. */
export const EXTLINUX_FORMAT: PointerFormat = {
  switchPath: EXTLINUX_PATH,
  switchBytes: SECTOR,
  parseSwitch: (bytes) => {
    const found = /^default ([ab])\n/.exec(latin(bytes))?.[1]
    return found === 'a' || found === 'b' ? found : undefined
  },
  writeSwitch: (place) => ({ path: EXTLINUX_PATH, offset: 'default '.length, bytes: Buffer.from(place) }),
  placeOf: (place) => ({
    path: EXTLINUX_PATH,
    offset: SECTOR + (place === 'a' ? 0 : LABEL_BYTES),
    lengthBytes: LABEL_BYTES,
  }),
  encodePlace: (place, boot) => {
    const directory = `/${SLOTS_DIRECTORY}/${boot.slot}`
    return padded(
      [
        `label ${place}`,
        `  kernel ${directory}/${boot.kernel}`,
        ...(boot.initramfs === '' ? [] : [`  initrd ${directory}/${boot.initramfs}`]),
        ...(boot.deviceTree === '' ? [] : [`  fdt ${directory}/${boot.deviceTree}`]),
        // Its initramfs looks at the boot record, and starts what is on trial instead.
        `  append ${kernelArguments(boot, false)} flotilla.select=1`,
      ].join('\n'),
      LABEL_BYTES,
    )
  },
  parsePlace: (bytes) => /^ {2}append .*\bflotilla\.slot=([0-9a-f]{16})\b/m.exec(latin(bytes))?.[1],
}

/** The whole extlinux.conf of a new device. */
export function encodeExtlinux(boot: SlotBoot): Uint8Array {
  const head = padded('default a\ntimeout 1\nprompt 0', SECTOR)
  return Buffer.concat([head, EXTLINUX_FORMAT.encodePlace('a', boot), EXTLINUX_FORMAT.encodePlace('b', boot)])
}

function latin(bytes: Uint8Array | undefined): string {
  return Buffer.from(bytes ?? []).toString('latin1')
}

/** Filled up with a comment. */
function padded(content: string, lengthBytes: number): Uint8Array {
  return Buffer.from(`${`${content}\n#`.padEnd(lengthBytes - 1, '#')}\n`, 'latin1')
}
