import { createHash } from 'node:crypto'

/** Chunk sizes of releases, bytes: measured best for squashfs in facts/distribution.md 3.2. */
export const RELEASE_CUT = { minBytes: 16_384, averageBytes: 65_536, maxBytes: 262_144 } as const

export type CutSizes = { readonly minBytes: number; readonly averageBytes: number; readonly maxBytes: number }

/**
 * The public Gear table: entry `i` is the first four bytes, little-endian, of SHA-256("flotilla gear" ‖ i).
 * Releases are public data, so the table needs no key.
 */
export const GEAR: Uint32Array = Uint32Array.from({ length: 256 }, (_, i) =>
  createHash('sha256').update('flotilla gear').update(Uint8Array.of(i)).digest().readUInt32LE(0),
)

// Normalisation level 2 of FastCDC: two bits harder before the average, two bits easier after it.
function mask(bits: number): number {
  return bits >= 32 ? 0xffffffff : (2 ** bits - 1) << (32 - bits)
}

/**
 * Where the next chunk ends. Pure.
 * @param data - must hold at least `maxBytes` from `start` unless the artifact ends earlier
 * @returns offset after the chunk's last byte
 * @see Xia et al., "FastCDC", USENIX ATC 2016; protocol/spec/chunks.md, "Cutting"
 */
export function nextCut(data: Uint8Array, start: number, end: number, sizes: CutSizes = RELEASE_CUT): number {
  const limit = Math.min(end, start + sizes.maxBytes)
  const bits = Math.round(Math.log2(sizes.averageBytes))
  const hard = mask(bits + 2)
  const easy = mask(bits - 2)
  const normal = Math.min(limit, start + sizes.averageBytes)
  let at = start + sizes.minBytes
  if (at >= limit) return limit
  let hash = 0
  for (; at < normal; at += 1) {
    hash = ((hash << 1) + (GEAR[data[at] as number] as number)) | 0
    if ((hash & hard) === 0) return at + 1
  }
  for (; at < limit; at += 1) {
    hash = ((hash << 1) + (GEAR[data[at] as number] as number)) | 0
    if ((hash & easy) === 0) return at + 1
  }
  return limit
}
