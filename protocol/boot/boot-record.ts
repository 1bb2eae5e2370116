import { crc32 } from 'node:zlib'

/**
 * What the loader of the `directory` family reads and counts in: one sector, overwritten in place, in two copies of
 * which the newer whole one holds. Slots are named by the first 16 digits of the release id.
 */
export type BootRecord = {
  readonly seq: number
  readonly good: string
  readonly trial: string | undefined
  readonly tries: number
  /** The agent raises `canaryAsked`; a loader that can write answers with the same `canarySeen` at its next boot. */
  readonly canaryAsked: number
  readonly canarySeen: number
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
  if (!/^[0-9a-f]{16}$/.test(good) || seq > MAX_SEQ) return undefined
  return {
    seq,
    good,
    trial: /^[0-9a-f]{16}$/.test(trial) ? trial : undefined,
    tries: bytes[48] ?? 0,
    canaryAsked: bytes.readUInt32LE(52),
    canarySeen: bytes.readUInt32LE(56),
  }
}

/** The record that holds, and the copy that the next write must go to. Pure. */
export function newestRecord(copies: readonly (BootRecord | undefined)[]): {
  readonly record: BootRecord | undefined
  readonly writeTo: 0 | 1
} {
  const [first, second] = copies
  if (first === undefined) return { record: second, writeTo: 0 }
  if (second === undefined) return { record: first, writeTo: 1 }
  return first.seq >= second.seq ? { record: first, writeTo: 1 } : { record: second, writeTo: 0 }
}

/**
 * What a loader does with the records. `write` must be on the medium before the slot is started; when it cannot be
 * written, `good` is started instead, so that a release on trial can never be tried for ever. Pure.
 */
export function chooseBoot(record: BootRecord): { readonly slot: string; readonly write: BootRecord | undefined } {
  const answered = record.canarySeen !== record.canaryAsked ? { canarySeen: record.canaryAsked } : undefined
  if (record.trial !== undefined && record.tries > 0) {
    return { slot: record.trial, write: { ...record, ...answered, seq: record.seq + 1, tries: record.tries - 1 } }
  }
  return {
    slot: record.good,
    write: answered === undefined ? undefined : { ...record, ...answered, seq: record.seq + 1 },
  }
}

/** The records of a new device: both copies exist from the start, and the loader's first boot must answer the canary. */
export function firstBootRecords(good: string): readonly { readonly path: string; readonly bytes: Uint8Array }[] {
  return BOOT_RECORD_PATHS.map((path, at) => ({
    path,
    bytes: encodeBootRecord({ seq: at + 1, good, trial: undefined, tries: 0, canaryAsked: 1, canarySeen: 0 }),
  }))
}
