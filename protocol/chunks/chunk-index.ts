import { createHash } from 'node:crypto'
import { FlotillaError } from '../errors.ts'

/**
 * The ordered list of pieces of one artifact. Chunk `i` covers
 * `offsets[i] … offsets[i] + lengths[i]` and hashes to `hashes` at `32 * i`.
 */
export type ChunkIndex = {
  readonly id: string
  readonly bytes: Uint8Array
  readonly artifactBytes: number
  readonly count: number
  readonly offsets: Float64Array
  readonly lengths: Uint32Array
  readonly hashes: Uint8Array
}

/** Largest chunk that travels: also the largest frame payload. */
export const MAX_CHUNK_BYTES = 262_144

const MAGIC = Buffer.from('FLOTIDX1', 'latin1')
const HASH_SHA256 = 1
const HEADER_BYTES = 24
const ENTRY_BYTES = 36

/** Length of an index of `count` chunks, in bytes. */
export function indexBytes(count: number): number {
  return HEADER_BYTES + ENTRY_BYTES * count
}

/**
 * Writes a chunk index: `FLOTIDX1`, algorithm u8 (1 = SHA-256), 3 zero bytes, count u32, artifact length u64,
 * then per chunk SHA-256 and length u32; little-endian.
 * @see protocol/spec/chunks.md, "Chunk index"
 */
export function encodeChunkIndex(
  chunks: readonly { readonly sha256: Uint8Array; readonly lengthBytes: number }[],
): ChunkIndex {
  const bytes = Buffer.alloc(indexBytes(chunks.length))
  MAGIC.copy(bytes)
  bytes[8] = HASH_SHA256
  bytes.writeUInt32LE(chunks.length, 12)
  bytes.writeBigUInt64LE(BigInt(chunks.reduce((sum, chunk) => sum + chunk.lengthBytes, 0)), 16)
  chunks.forEach((chunk, at) => {
    bytes.set(chunk.sha256, HEADER_BYTES + at * ENTRY_BYTES)
    bytes.writeUInt32LE(chunk.lengthBytes, HEADER_BYTES + at * ENTRY_BYTES + 32)
  })
  return parseChunkIndex(bytes)
}

/**
 * Reads a chunk index. The count is checked against the length before anything is allocated.
 * @throws FlotillaError BAD_INDEX
 */
export function parseChunkIndex(input: Uint8Array): ChunkIndex {
  const bytes = Buffer.from(input.buffer, input.byteOffset, input.length)
  const bad = (found: string): never => {
    throw new FlotillaError('BAD_INDEX', `chunk index: ${found}`)
  }
  if (bytes.length < HEADER_BYTES || !bytes.subarray(0, 8).equals(MAGIC)) bad('does not start with FLOTIDX1')
  if (bytes[8] !== HASH_SHA256) bad(`hash algorithm ${bytes[8]} is not known; a newer agent is needed`)
  if (bytes[9] !== 0 || bytes[10] !== 0 || bytes[11] !== 0) bad('reserved bytes are not zero')
  const count = bytes.readUInt32LE(12)
  if (bytes.length !== indexBytes(count)) bad(`${bytes.length} bytes do not hold ${count} chunks`)
  const offsets = new Float64Array(count)
  const lengths = new Uint32Array(count)
  const hashes = new Uint8Array(32 * count)
  let offset = 0
  for (let at = 0; at < count; at += 1) {
    const entry = HEADER_BYTES + at * ENTRY_BYTES
    const length = bytes.readUInt32LE(entry + 32)
    if (length === 0 || length > MAX_CHUNK_BYTES) bad(`chunk ${at} has ${length} bytes, wanted 1 … ${MAX_CHUNK_BYTES}`)
    hashes.set(bytes.subarray(entry, entry + 32), at * 32)
    offsets[at] = offset
    lengths[at] = length
    offset += length
  }
  const total = bytes.readBigUInt64LE(16)
  if (total !== BigInt(offset)) bad(`chunks add up to ${offset} bytes, the header says ${total}`)
  const id = createHash('sha256').update(bytes).digest('hex')
  return { id, bytes, artifactBytes: offset, count, offsets, lengths, hashes }
}

/** The hash of chunk `at` in hexadecimal: the key under which equal chunks are found. */
export function chunkHash(index: ChunkIndex, at: number): string {
  return Buffer.from(index.hashes.buffer, index.hashes.byteOffset + at * 32, 32).toString('hex')
}

/** True when `payload` is chunk `at` of the index. */
export function isChunk(index: ChunkIndex, at: number, payload: Uint8Array): boolean {
  if (at < 0 || at >= index.count || payload.length !== index.lengths[at]) return false
  const wanted = Buffer.from(index.hashes.buffer, index.hashes.byteOffset + at * 32, 32)
  return createHash('sha256').update(payload).digest().equals(wanted)
}
