import { crc32 } from 'node:zlib'

/**
 * What a loader reads and counts in: two copies, overwritten in place, of which the newer whole one holds. Slots are named
 * by the first 16 digits of the release id. Each boot family writes it in the form that its loader can read.
 */
export type BootRecord = {
  readonly seq: number
  readonly good: string
  readonly trial: string | undefined
  readonly tries: number
  /** The agent raises `canaryAsked`; a loader that can write answers with the same `canarySeen` at its next boot. */
  readonly canaryAsked: number
  readonly canarySeen: number
  /** The loader could not load the slot on trial: it took the tries that were left. */
  readonly loadFailed: boolean
}

/** A slot's name as it stands in records. */
export const SLOT_NAME = /^[0-9a-f]{16}$/

/** How a boot family writes a record. */
export type RecordFormat = {
  readonly lengthBytes: number
  readonly encode: (record: BootRecord) => Uint8Array
  /** Undefined for anything that is not a whole record: torn, foreign, too short. */
  readonly parse: (bytes: Uint8Array | undefined) => BootRecord | undefined
  /** Sequences go round after so many. Three where the loader cannot add: the newer of two is the successor of the other. */
  readonly sequences: number
  /** A third copy that is written only when a slot was proven, for loaders that cannot look for one when both are lost. */
  readonly rescuePath: string | undefined
}

export const BOOT_RECORD_BYTES = 512
export const BOOT_RECORD_PATHS = ['select.0', 'select.1'] as const
const MAGIC = Buffer.from('FLOTBOOT', 'latin1')
const MAX_SEQ = 2 ** 32 - 2

/** @see protocol/spec/slots.md, "Boot record of the directory family" */
export function encodeBootRecord(record: BootRecord): Uint8Array {
  const bytes = Buffer.alloc(BOOT_RECORD_BYTES)
  MAGIC.copy(bytes)
  bytes[8] = 1
  bytes.writeUInt32LE(record.seq, 12)
  bytes.write(record.good, 16, 16, 'latin1')
  bytes.write(record.trial ?? '', 32, 16, 'latin1')
  bytes[48] = record.tries
  bytes[49] = record.loadFailed ? 1 : 0
  bytes.writeUInt32LE(record.canaryAsked, 52)
  bytes.writeUInt32LE(record.canarySeen, 56)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 508)), 508)
  return bytes
}

/** Undefined for anything that is not a whole record: torn, foreign, too short. */
export function parseBootRecord(input: Uint8Array | undefined): BootRecord | undefined {
  if (input?.length !== BOOT_RECORD_BYTES) return undefined
  const bytes = Buffer.from(input.buffer, input.byteOffset, input.length)
  if (!bytes.subarray(0, 8).equals(MAGIC) || bytes[8] !== 1) return undefined
  if (bytes.readUInt32LE(508) !== crc32(bytes.subarray(0, 508))) return undefined
  const good = bytes.toString('latin1', 16, 32)
  const trial = bytes.toString('latin1', 32, 48)
  const seq = bytes.readUInt32LE(12)
  // No device counts that far; a record that cannot be followed by another would stop all updates.
  if (!SLOT_NAME.test(good) || seq > MAX_SEQ) return undefined
  return {
    seq,
    good,
    trial: SLOT_NAME.test(trial) ? trial : undefined,
    tries: bytes[48] ?? 0,
    canaryAsked: bytes.readUInt32LE(52),
    canarySeen: bytes.readUInt32LE(56),
    loadFailed: bytes[49] === 1,
  }
}

/** @see protocol/spec/slots.md, "Boot records" */
export const BINARY_FORMAT: RecordFormat = {
  lengthBytes: BOOT_RECORD_BYTES,
  encode: encodeBootRecord,
  parse: parseBootRecord,
  sequences: MAX_SEQ + 2,
  rescuePath: undefined,
}

/** The record that holds, and the copy that the next write must go to. Pure. */
export function newestRecord(
  copies: readonly (BootRecord | undefined)[],
  sequences: number = BINARY_FORMAT.sequences,
): {
  readonly record: BootRecord | undefined
  readonly writeTo: 0 | 1
} {
  const [first, second] = copies
  if (first === undefined) return { record: second, writeTo: 0 }
  if (second === undefined) return { record: first, writeTo: 1 }
  const isSecondNewer = sequences === 3 ? second.seq === (first.seq + 1) % 3 : second.seq > first.seq
  return isSecondNewer ? { record: second, writeTo: 0 } : { record: first, writeTo: 1 }
}

/**
 * What a loader does with the records. `write` must be on the medium before the slot is started; when it cannot be
 * written, `good` is started instead, so that a release on trial can never be tried for ever. Pure.
 */
export function chooseBoot(record: BootRecord): { readonly slot: string; readonly write: BootRecord | undefined } {
  const answered = record.canarySeen !== record.canaryAsked ? { canarySeen: record.canaryAsked } : undefined
  if (record.trial !== undefined && record.tries > 0) {
    return { slot: record.trial, write: { ...record, ...answered, tries: record.tries - 1 } }
  }
  return {
    slot: record.good,
    write: answered === undefined ? undefined : { ...record, ...answered },
  }
}

/** The records of a new device: all copies exist from the start, and the loader's first boot must answer the canary. */
export function firstBootRecords(
  good: string,
  format: RecordFormat = BINARY_FORMAT,
): readonly { readonly path: string; readonly bytes: Uint8Array }[] {
  const rescue = format.rescuePath === undefined ? [] : [format.rescuePath]
  return [...BOOT_RECORD_PATHS, ...rescue].map((path, at) => {
    const record = { ...freshRecord(good), seq: (at + 1) % format.sequences, canaryAsked: 1 }
    return { path, bytes: format.encode(record) }
  })
}

/** Nothing on trial, nothing asked. */
export function freshRecord(good: string): BootRecord {
  return { seq: 0, good, trial: undefined, tries: 0, canaryAsked: 0, canarySeen: 0, loadFailed: false }
}
