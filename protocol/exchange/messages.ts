import { MAX_CHUNK_BYTES } from '../chunks/chunk-index.ts'
import { FlotillaError } from '../errors.ts'
import { MAX_INDEX_BYTES } from '../release/description.ts'

/**
 * Messages of `/flotilla/exchange/1`. The side that opened the stream asks (`ask`, `want`, `cancel`, `fetch`);
 * the other side answers on the same stream. Artifacts are named by the hash of their chunk index.
 * @see protocol/spec/exchange.md
 */
export type ExchangeMessage =
  | { readonly type: 'ask'; readonly artifact: string }
  | { readonly type: 'want'; readonly artifact: string; readonly chunks: readonly number[] }
  /** `count` of the chunks in the bitmap, of those that the source has given to nobody. */
  | {
      readonly type: 'want-any'
      readonly artifact: string
      readonly count: number
      readonly size: number
      readonly bits: Uint8Array
    }
  | { readonly type: 'cancel'; readonly artifact: string; readonly chunks: readonly number[] }
  | { readonly type: 'fetch'; readonly sha256: string; readonly maxBytes: number }
  | { readonly type: 'have'; readonly artifact: string; readonly size: number; readonly bits: Uint8Array }
  | { readonly type: 'gained'; readonly artifact: string; readonly chunks: readonly number[] }
  | { readonly type: 'lost'; readonly artifact: string; readonly chunks: readonly number[] }
  | { readonly type: 'chunk'; readonly artifact: string; readonly chunk: number; readonly payload: Uint8Array }
  | { readonly type: 'reject'; readonly artifact: string; readonly chunk: number; readonly code: RejectCode }
  | { readonly type: 'blob'; readonly sha256: string; readonly payload: Uint8Array }
  | { readonly type: 'no-blob'; readonly sha256: string }
  /** The source has given each of those chunks to somebody: ask for them by number. */
  | { readonly type: 'spent'; readonly artifact: string }
  /** Asks for a session of the bulk channel; chunks then come on that. */
  | { readonly type: 'open-bulk' }
  /** One session: `port` 0 when there is none. */
  | { readonly type: 'bulk'; readonly key: Uint8Array; readonly id: Uint8Array; readonly port: number }

/** Questions about chunks, and the answers to them: what the engine reads, and what moves to the bulk channel. */
const CHUNK_QUESTIONS: readonly string[] = ['ask', 'want', 'want-any', 'cancel']
const CHUNK_ANSWERS: readonly string[] = ['have', 'gained', 'lost', 'chunk', 'reject', 'spent']

export function isChunkQuestion(message: ExchangeMessage): boolean {
  return CHUNK_QUESTIONS.includes(message.type)
}

export function isChunkAnswer(message: ExchangeMessage): boolean {
  return CHUNK_ANSWERS.includes(message.type)
}

export const REJECT_CODES = ['gone', 'busy', 'policy'] as const
export type RejectCode = (typeof REJECT_CODES)[number]

/** Length of the name of a bulk session. */
export const BULK_ID_BYTES = 16
/** Most chunk numbers in one message. */
export const MAX_CHUNKS_PER_MESSAGE = 512
/** Largest frame: a blob of the largest index, with its header. */
export const MAX_EXCHANGE_FRAME = MAX_INDEX_BYTES + 64
const MAX_BITS = 400_000

const CODES = {
  ask: 1,
  want: 2,
  cancel: 3,
  fetch: 4,
  have: 5,
  gained: 6,
  lost: 7,
  chunk: 8,
  reject: 9,
  blob: 10,
  'no-blob': 11,
  'open-bulk': 12,
  bulk: 13,
  'want-any': 14,
  spent: 15,
} as const

/** Encodes a message: code u8, 32 bytes of hash, then what the type needs; integers little-endian. */
export function encodeExchangeMessage(message: ExchangeMessage): Uint8Array {
  const head = (hash: string, bodyBytes: number) => {
    const frame = Buffer.allocUnsafe(33 + bodyBytes)
    frame[0] = CODES[message.type]
    frame.write(hash, 1, 'hex')
    return frame
  }
  switch (message.type) {
    case 'ask':
      return head(message.artifact, 0)
    case 'no-blob':
      return head(message.sha256, 0)
    case 'open-bulk':
      return head('00'.repeat(32), 0)
    case 'bulk': {
      const frame = head(Buffer.from(message.key).toString('hex'), 2 + BULK_ID_BYTES)
      frame.writeUInt16LE(message.port, 33)
      frame.set(message.id, 35)
      return frame
    }
    case 'want':
    case 'cancel':
    case 'gained':
    case 'lost': {
      const frame = head(message.artifact, message.chunks.length * 4)
      message.chunks.forEach((chunk, at) => frame.writeUInt32LE(chunk, 33 + at * 4))
      return frame
    }
    case 'want-any': {
      const frame = head(message.artifact, 8 + message.bits.length)
      frame.writeUInt32LE(message.count, 33)
      frame.writeUInt32LE(message.size, 37)
      frame.set(message.bits, 41)
      return frame
    }
    case 'spent':
      return head(message.artifact, 0)
    case 'fetch': {
      const frame = head(message.sha256, 4)
      frame.writeUInt32LE(message.maxBytes, 33)
      return frame
    }
    case 'have': {
      const frame = head(message.artifact, 4 + message.bits.length)
      frame.writeUInt32LE(message.size, 33)
      frame.set(message.bits, 37)
      return frame
    }
    case 'chunk':
      return Buffer.concat([chunkHead(message.artifact, message.chunk), message.payload])
    case 'reject': {
      const frame = head(message.artifact, 5)
      frame.writeUInt32LE(message.chunk, 33)
      frame[37] = REJECT_CODES.indexOf(message.code)
      return frame
    }
    case 'blob': {
      const frame = head(message.sha256, message.payload.length)
      frame.set(message.payload, 33)
      return frame
    }
  }
}

/** The part of a chunk's frame that comes before its payload. */
export function chunkHead(artifact: string, chunk: number): Uint8Array {
  const head = Buffer.allocUnsafe(37)
  head[0] = CODES.chunk
  head.write(artifact, 1, 'hex')
  head.writeUInt32LE(chunk, 33)
  return head
}

/**
 * Parses one frame from a peer. Any bytes give a message or BAD_FRAME; nothing larger than the frame is allocated.
 * A message of an unknown type is `undefined`: newer peers may say more.
 */
export function parseExchangeMessage(input: Uint8Array): ExchangeMessage | undefined {
  const frame = Buffer.from(input.buffer, input.byteOffset, input.length)
  if (frame.length < 33) throw bad('shorter than its header')
  const hash = frame.toString('hex', 1, 33)
  const body = frame.subarray(33)
  switch (frame[0]) {
    case CODES.ask:
      return { type: 'ask', artifact: hash }
    case CODES.want:
      return { type: 'want', artifact: hash, chunks: parseChunks(body) }
    case CODES['want-any']: {
      const count = body.length < 8 ? 0 : body.readUInt32LE(0)
      if (count < 1 || count > MAX_CHUNKS_PER_MESSAGE) throw bad('any chunks, but how many is wrong')
      return { type: 'want-any', artifact: hash, count, ...parseBits(body.subarray(4)) }
    }
    case CODES.spent:
      return { type: 'spent', artifact: hash }
    case CODES.cancel:
      return { type: 'cancel', artifact: hash, chunks: parseChunks(body) }
    case CODES.gained:
      return { type: 'gained', artifact: hash, chunks: parseChunks(body) }
    case CODES.lost:
      return { type: 'lost', artifact: hash, chunks: parseChunks(body) }
    case CODES.fetch:
      if (body.length !== 4) throw bad('fetch has the wrong length')
      return { type: 'fetch', sha256: hash, maxBytes: body.readUInt32LE(0) }
    case CODES.have:
      return { type: 'have', artifact: hash, ...parseBits(body) }
    case CODES.chunk:
      if (body.length < 5 || body.length > 4 + MAX_CHUNK_BYTES) throw bad('chunk of the wrong length')
      return { type: 'chunk', artifact: hash, chunk: body.readUInt32LE(0), payload: body.subarray(4) }
    case CODES.reject: {
      const code = REJECT_CODES[body[4] ?? 255]
      if (body.length !== 5 || code === undefined) throw bad('reject without a known code')
      return { type: 'reject', artifact: hash, chunk: body.readUInt32LE(0), code }
    }
    case CODES.blob:
      return { type: 'blob', sha256: hash, payload: body }
    case CODES['no-blob']:
      return { type: 'no-blob', sha256: hash }
    case CODES['open-bulk']:
      return { type: 'open-bulk' }
    case CODES.bulk:
      if (body.length !== 2 + BULK_ID_BYTES) throw bad('bulk session of the wrong length')
      return { type: 'bulk', key: frame.subarray(1, 33), port: body.readUInt16LE(0), id: body.subarray(2) }
    default:
      return undefined
  }
}

function parseChunks(body: Buffer): number[] {
  if (body.length % 4 !== 0 || body.length > MAX_CHUNKS_PER_MESSAGE * 4) throw bad('list of chunks of the wrong length')
  return Array.from({ length: body.length / 4 }, (_, at) => body.readUInt32LE(at * 4))
}

function parseBits(body: Buffer): { size: number; bits: Uint8Array } {
  const size = body.length < 4 ? -1 : body.readUInt32LE(0)
  if (size < 0 || size > MAX_BITS || body.length !== 4 + Math.ceil(size / 8)) throw bad('bitmap of the wrong length')
  return { size, bits: body.subarray(4) }
}

function bad(found: string): FlotillaError {
  return new FlotillaError('BAD_FRAME', `exchange frame: ${found}`)
}
