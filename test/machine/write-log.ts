import { readFileSync } from 'node:fs'

/** What a disk was told, in order: bytes at a place, or to bring all that was written before onto the medium. */
export type DiskWrite = { readonly at: number; readonly bytes: Buffer }
export type DiskOperation = DiskWrite | 'flush'

const MAGIC = 0x6a736677736872n
const FLUSH = 1n
const FORCE_UNIT_ACCESS = 2n
const DISCARD = 4n

/**
 * Reads the log of QEMU's `blklogwrites`, which is that of Linux' dm-log-writes: a superblock, then entries of one sector, each with
 * its data behind it.
 * @see Linux, Documentation/admin-guide/device-mapper/log-writes.rst
 */
export function readWriteLog(file: string): readonly DiskOperation[] {
  const log = readFileSync(file)
  if (log.readBigUInt64LE(0) !== MAGIC) throw new Error(`${file} is no log of writes`)
  const entries = Number(log.readBigUInt64LE(16))
  const sectorBytes = log.readUInt32LE(24)
  const operations: DiskOperation[] = []
  let at = sectorBytes
  for (let entry = 0; entry < entries; entry += 1) {
    const place = Number(log.readBigUInt64LE(at)) * sectorBytes
    const length = Number(log.readBigUInt64LE(at + 8)) * sectorBytes
    const flags = log.readBigUInt64LE(at + 16)
    at += sectorBytes
    if ((flags & FLUSH) !== 0n) operations.push('flush')
    if ((flags & DISCARD) !== 0n) {
      operations.push({ at: place, bytes: Buffer.alloc(length) })
      continue
    }
    if (length > 0) operations.push({ at: place, bytes: log.subarray(at, at + length) })
    if ((flags & FORCE_UNIT_ACCESS) !== 0n) operations.push('flush')
    at += length
  }
  return operations
}
