import { crc32 } from 'node:zlib'

export type ScriptMachine = 'arm' | 'arm64'

/** Of U-Boot's include/image.h. */
const MAGIC = 0x27051956
const OS_LINUX = 5
const MACHINES = { arm: 2, arm64: 22 } as const
const TYPE_SCRIPT = 6
const HEADER_BYTES = 64

/**
 * A script as U-Boot's `source` takes it: the legacy image header, the length of the text, a zero, the text. What
 * `mkimage -T script -A MACHINE -O linux -C none` makes, with the time 0, so that the same text gives the same bytes.
 */
export function encodeScriptImage(script: string, machine: ScriptMachine): Uint8Array {
  const text = Buffer.from(script, 'latin1')
  const data = Buffer.concat([Buffer.alloc(8), text])
  data.writeUInt32BE(text.length)
  const header = Buffer.alloc(HEADER_BYTES)
  header.writeUInt32BE(MAGIC)
  header.writeUInt32BE(data.length, 12)
  header.writeUInt32BE(crc32(data), 24)
  header.set([OS_LINUX, MACHINES[machine], TYPE_SCRIPT, 0], 28)
  header.write('flotilla', 32, 'latin1')
  header.writeUInt32BE(crc32(header), 4)
  return Buffer.concat([header, data])
}
