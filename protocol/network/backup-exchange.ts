import { createHash, randomBytes } from 'node:crypto'
import type { Stream } from '@libp2p/interface'
import { FILE_KINDS } from '../backup/repository-list.ts'
import { REPOSITORY_PATTERN } from '../backup/repository-name.ts'
import { FlotillaError } from '../errors.ts'
import { parseJson, shape } from '../shape.ts'
import { FrameStream } from './frame-stream.ts'

/** Questions for pieces of backup repositories, answered in their order. */
export const BACKUP_PROTOCOL = '/flotilla/backup/1'

/** Beside the files of a repository: the record that tells of it, and the list that the record names. */
export const PIECE_KINDS = [...FILE_KINDS, 'list', 'head'] as const
export type PieceKind = (typeof PIECE_KINDS)[number]

/** Part of something that is named by its hash; of a head, whatever the holder has. */
export type PieceQuestion = {
  readonly repository: string
  readonly kind: PieceKind
  readonly sha256: string
  readonly offset: number
  readonly lengthBytes: number
}

/** Small enough to come within its time over a slow radio. */
export const MAX_PIECE_BYTES = 262_144
const MAX_QUESTION = 512
const IDLE_MS = 60_000
const ANSWER_MS = 60_000
const NONCE_BYTES = 16
/** Questions on their way at once: the next answer is read from the disk while one travels. */
const AHEAD = 3

/** First byte of an answer. */
const [GONE, HERE] = [0, 1]

export type PieceServer = {
  /** Undefined when it is not here; short at its end. */
  readonly read: (question: PieceQuestion) => Promise<Uint8Array | undefined>
  /** Waits until so many bytes may go to that peer. */
  readonly spend: (peer: string, bytes: number, isWanted: () => boolean) => Promise<void>
}

/** Answers until the peer has no more questions. */
export async function servePieces(stream: Stream, peer: string, server: PieceServer): Promise<void> {
  const frames = new FrameStream(stream, { maxFrameBytes: () => MAX_QUESTION })
  try {
    while (!frames.closed) {
      const { question, nonce } = parseQuestion(await frames.next(IDLE_MS))
      // Before it is read: who waits for a budget holds no memory, and who is gone waits no longer.
      await server.spend(peer, question.lengthBytes, () => !frames.ended)
      if (frames.ended) return
      const bytes = await server.read(question)
      if (bytes === undefined) frames.send(Uint8Array.of(GONE))
      else if (nonce !== undefined) frames.send(Buffer.concat([Uint8Array.of(HERE), proofOf(nonce, bytes)]))
      else {
        if (!frames.send(Buffer.concat([Uint8Array.of(HERE), bytes]))) await frames.drained()
      }
    }
  } catch (error) {
    if (error instanceof FlotillaError && (error.code === 'UNREACHABLE' || error.code === 'TIMEOUT')) return
    throw error
  } finally {
    await frames.close()
  }
}

/** The asking side of one stream. */
export class PieceAsker {
  readonly #frames: FrameStream

  constructor(stream: Stream) {
    this.#frames = new FrameStream(stream, { maxFrameBytes: () => MAX_PIECE_BYTES + 1 })
  }

  /**
   * Gives a whole file piece by piece, from an offset on. Nothing in it is verified.
   * @throws FlotillaError MISSING when it is not there or ends early, TIMEOUT, UNREACHABLE
   */
  async *pieces(
    what: Pick<PieceQuestion, 'repository' | 'kind' | 'sha256'>,
    offset: number,
    lengthBytes: number,
  ): AsyncGenerator<Uint8Array> {
    let asked = offset
    const ask = () => {
      const length = Math.min(MAX_PIECE_BYTES, lengthBytes - asked)
      this.#send({ ...what, offset: asked, lengthBytes: length })
      asked += length
    }
    for (let n = 0; n < AHEAD && asked < lengthBytes; n += 1) ask()
    // After an answer that is missing, the others on their way would be taken for those of the next file: the asker is done with.
    for (let got = offset; got < lengthBytes; ) {
      const bytes = await this.#answer()
      if (bytes === undefined || bytes.length !== Math.min(MAX_PIECE_BYTES, lengthBytes - got))
        throw new FlotillaError('MISSING', `fetch ${what.kind} ${what.sha256.slice(0, 16)}: the peer does not have it`)
      got += bytes.length
      if (asked < lengthBytes) ask()
      yield bytes
    }
  }

  /** The record that tells of a repository, as far as the peer has one. */
  async head(repository: string): Promise<Uint8Array | undefined> {
    this.#send({ repository, kind: 'head', sha256: '0'.repeat(64), offset: 0, lengthBytes: MAX_PIECE_BYTES })
    return this.#answer()
  }

  /** Has the peer prove that it holds some bytes that are here too. @returns `gone` when it says that it does not */
  async prove(question: PieceQuestion, bytes: Uint8Array): Promise<'held' | 'gone' | 'wrong'> {
    const nonce = randomBytes(NONCE_BYTES)
    this.#send(question, nonce)
    const answer = await this.#answer()
    if (answer === undefined) return 'gone'
    return Buffer.compare(answer, proofOf(nonce, bytes)) === 0 ? 'held' : 'wrong'
  }

  close(): Promise<void> {
    return this.#frames.close()
  }

  #send(question: PieceQuestion, nonce?: Uint8Array): void {
    const json = { ...question, ...(nonce === undefined ? {} : { nonce: Buffer.from(nonce).toString('hex') }) }
    this.#frames.send(Buffer.from(JSON.stringify(json)))
  }

  async #answer(): Promise<Uint8Array | undefined> {
    const frame = await this.#frames.next(ANSWER_MS)
    return frame[0] === HERE ? frame.subarray(1) : undefined
  }
}

/** Only who has the bytes can say it, and a nonce lets nobody have said it before. */
function proofOf(nonce: Uint8Array, bytes: Uint8Array): Uint8Array {
  return createHash('sha256').update(nonce).update(bytes).digest()
}

/** @throws FlotillaError FORMAT, LENGTH */
export function parseQuestion(frame: Uint8Array): {
  readonly question: PieceQuestion
  readonly nonce: Uint8Array | undefined
} {
  const what = 'backup question'
  const json = shape.object(parseJson(frame, what, MAX_QUESTION), what)
  const nonce = json['nonce']
  return {
    question: {
      repository: shape.matching(json['repository'], `${what}: repository`, REPOSITORY_PATTERN, 'a repository'),
      kind: shape.oneOf(json['kind'], `${what}: kind`, PIECE_KINDS),
      sha256: shape.hex32(json['sha256'], `${what}: sha256`),
      offset: shape.integer(json['offset'], `${what}: offset`, 0),
      lengthBytes: shape.integer(json['lengthBytes'], `${what}: lengthBytes`, 1, MAX_PIECE_BYTES),
    },
    nonce:
      nonce === undefined
        ? undefined
        : Buffer.from(shape.matching(nonce, `${what}: nonce`, /^[0-9a-f]{32}$/, '32 hexadecimal digits'), 'hex'),
  }
}
