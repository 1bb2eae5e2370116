import { crc32 } from 'node:zlib'
import { type BootRecord, type RecordFormat, SLOT_NAME } from './boot-record.ts'

/** The variables of a record, as U-Boot's and GRUB's scripts name them. */
export const RECORD_VARIABLES = ['fl_seq', 'fl_good', 'fl_trial', 'fl_tries', 'fl_asked', 'fl_seen', 'fl_note'] as const

const NONE = 'none'
const ENVIRONMENT_BYTES = 512
const GRUB_BYTES = 1024
const GRUB_HEADER = '# GRUB Environment Block\n'
/** GRUB cannot compute a checksum: a record carries a copy of itself instead, and a torn one differs from it. */
export const CHECK_VARIABLE = 'fl_check'

/**
 * A record as U-Boot's `env export -c -s 200` writes it: CRC-32 of what follows, `key=value` ended by zeros.
 * @see U-Boot, doc/usage/cmd/env; protocol/spec/slots.md, "Boot records"
 */
export const UBOOT_FORMAT: RecordFormat = {
  lengthBytes: ENVIRONMENT_BYTES,
  encode: (record) => encodeEnvironment(variablesOf(record), ENVIRONMENT_BYTES),
  parse: (bytes) => {
    const variables = parseEnvironment(bytes, ENVIRONMENT_BYTES)
    return variables === undefined ? undefined : recordOf(variables)
  },
  sequences: 3,
  rescuePath: 'select.rescue',
}

/** A record as GRUB's `save_env` writes it: lines `key=value` in a block of 1024 bytes that `#` fills. */
export const GRUB_FORMAT: RecordFormat = {
  lengthBytes: GRUB_BYTES,
  encode: (record) => {
    const variables = variablesOf(record)
    const lines = [...variables, [CHECK_VARIABLE, checkOf(variables)] as const].map(
      ([key, value]) => `${key}=${value}\n`,
    )
    return Buffer.from(`${GRUB_HEADER}${lines.join('')}`.padEnd(GRUB_BYTES, '#'), 'latin1')
  },
  parse: (bytes) => {
    if (bytes?.length !== GRUB_BYTES) return undefined
    const text = Buffer.from(bytes).toString('latin1')
    if (!text.startsWith(GRUB_HEADER)) return undefined
    const variables = variablesIn(text.slice(GRUB_HEADER.length).split('\n'))
    if (variables.get(CHECK_VARIABLE) !== checkOf(variables)) return undefined
    return recordOf(variables)
  },
  sequences: 3,
  rescuePath: 'select.rescue',
}

/** Variables as U-Boot keeps them, with a checksum. @param lengthBytes - of the whole blob */
export function encodeEnvironment(variables: ReadonlyMap<string, string>, lengthBytes: number): Uint8Array {
  const bytes = Buffer.alloc(lengthBytes)
  bytes.write([...variables].map(([key, value]) => `${key}=${value}\0`).join(''), 4, 'latin1')
  bytes.writeUInt32LE(crc32(bytes.subarray(4)))
  return bytes
}

/** Undefined when the checksum does not fit. */
export function parseEnvironment(
  input: Uint8Array | undefined,
  lengthBytes: number,
): ReadonlyMap<string, string> | undefined {
  if (input?.length !== lengthBytes) return undefined
  const bytes = Buffer.from(input.buffer, input.byteOffset, input.length)
  if (bytes.readUInt32LE() !== crc32(bytes.subarray(4))) return undefined
  const text = bytes.toString('latin1', 4)
  return variablesIn(text.slice(0, Math.max(0, text.indexOf('\0\0'))).split('\0'))
}

function variablesIn(lines: readonly string[]): ReadonlyMap<string, string> {
  return new Map(
    lines.flatMap((line) => {
      const at = line.indexOf('=')
      return at < 1 ? [] : [[line.slice(0, at), line.slice(at + 1)] as const]
    }),
  )
}

function variablesOf(record: BootRecord): ReadonlyMap<string, string> {
  return new Map([
    ['fl_seq', String(record.seq)],
    ['fl_good', record.good],
    ['fl_trial', record.trial ?? NONE],
    ['fl_tries', String(record.tries)],
    ['fl_asked', String(record.canaryAsked)],
    ['fl_seen', String(record.canarySeen)],
    ['fl_note', record.loadFailed ? 'load' : NONE],
  ])
}

function checkOf(variables: ReadonlyMap<string, string>): string {
  return RECORD_VARIABLES.map((name) => variables.get(name) ?? '').join(',')
}

function recordOf(variables: ReadonlyMap<string, string>): BootRecord | undefined {
  const number = (name: string, most: number) => {
    const text = variables.get(name) ?? ''
    return /^\d{1,10}$/.test(text) && Number(text) <= most ? Number(text) : undefined
  }
  const seq = number('fl_seq', 2)
  const tries = number('fl_tries', 9)
  const canaryAsked = number('fl_asked', 2 ** 32)
  const canarySeen = number('fl_seen', 2 ** 32)
  const good = variables.get('fl_good') ?? ''
  const trial = variables.get('fl_trial') ?? NONE
  if (seq === undefined || tries === undefined || canaryAsked === undefined || canarySeen === undefined)
    return undefined
  if (!SLOT_NAME.test(good)) return undefined
  return {
    seq,
    good,
    trial: SLOT_NAME.test(trial) ? trial : undefined,
    tries,
    canaryAsked,
    canarySeen,
    loadFailed: variables.get('fl_note') === 'load',
  }
}
