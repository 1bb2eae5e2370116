import { randomBytes } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import { Bitmap } from '../../protocol/exchange/bitmap.ts'
import {
  encodeExchangeMessage,
  type ExchangeMessage,
  MAX_CHUNKS_PER_MESSAGE,
} from '../../protocol/exchange/messages.ts'
import { BulkListener } from '../../protocol/network/bulk-channel.ts'
import { EXCHANGE_PROTOCOL } from '../../protocol/network/exchange-driver.ts'
import { METADATA_PROTOCOL } from '../../protocol/network/metadata-exchange.ts'
import { RECORD_SYNC_PROTOCOL } from '../../protocol/network/record-sync.ts'
import { type Attack, int32, refusedWith, repeat } from './attack.ts'
import {
  type Asked,
  answerAsks,
  answerQuestions,
  askDevices,
  type Company,
  joinAsMember,
  type Prize,
} from './company.ts'

/** Attacks on what is carried: chunks, questions, frames, streams. @see protocol/spec/threats.md */
export const EXCHANGE_ATTACKS: readonly Attack[] = [
  {
    name: 'wrong-chunks',
    does: 'a member that offers everything and sends noise',
    refused: refusedWith('BAD_CHUNKS'),
    mount: (company) => offer(company, (chunk, prize) => randomBytes(prize.index.lengths[chunk] ?? 1)),
  },
  {
    name: 'late-garbage',
    does: 'right chunks at first, noise from the twentieth on',
    refused: refusedWith('BAD_CHUNKS'),
    mount: (company) => {
      let served = 0
      return offer(company, (chunk, prize) => {
        served += 1
        return served < 20 ? prize.read(chunk) : randomBytes(prize.index.lengths[chunk] ?? 1)
      })
    },
  },
  {
    name: 'false-haves',
    does: 'claims every chunk and answers no question',
    refused: undefined,
    mount: (company) => offer(company, () => undefined),
  },
  {
    name: 'one-byte-a-second',
    does: 'claims every chunk and sends a byte a second',
    refused: undefined,
    mount: (company) => trickle(company, 1_000),
  },
  {
    name: 'silent-in-a-frame',
    does: 'claims every chunk and falls silent in the middle of one',
    refused: undefined,
    mount: (company) => trickle(company, undefined),
  },
  {
    name: 'endless-data',
    does: 'sends chunks that nobody asked for, without end',
    refused: refusedWith('UNASKED_CHUNK'),
    mount: (company) =>
      answerAsks(company, (artifact, asked) =>
        flood(company, asked, () => ({ type: 'chunk', artifact, chunk: 0, payload: randomBytes(65_536) })),
      ),
  },
  {
    name: 'oversized-frame',
    does: 'announces a frame of four gigabytes',
    refused: refusedWith('BAD_FRAME'),
    mount: async (company) => {
      const offender = await joinAsMember(company)
      await offender.node.handle(EXCHANGE_PROTOCOL, (stream) => {
        stream.send(Uint8Array.of(255, 255, 255, 255, 8))
        company.did()
      })
    },
  },
  {
    name: 'wrong-counts',
    does: 'bitmaps and lists whose counts and lengths do not agree',
    refused: refusedWith('BAD_FRAME'),
    mount: (company) =>
      answerAsks(company, (artifact, { frames }) => {
        const frame = Buffer.from(encodeExchangeMessage({ type: 'have', artifact, size: 8, bits: Uint8Array.of(255) }))
        frame.writeUInt32LE(0xffffffff, 33)
        frames.send(frame)
        company.did()
      }),
  },
  {
    name: 'wrong-bitmap',
    does: 'a well-formed bitmap of another length than the artifact',
    refused: refusedWith('BAD_BITMAP'),
    mount: (company) =>
      answerAsks(company, (artifact, { send }) => {
        send({ type: 'have', artifact, size: 399_999, bits: new Uint8Array(50_000).fill(255) })
        company.did()
      }),
  },
  {
    name: 'unasked-file',
    does: 'pushes metadata files that nobody asked for',
    refused: refusedWith('BAD_FRAME'),
    mount: (company) =>
      answerQuestions(company, (_question, { send }) => {
        send({ type: 'blob', sha256: '00'.repeat(32), payload: randomBytes(60_000) })
        company.did()
      }),
  },
  {
    name: 'bad-bulk',
    does: 'hands out a bulk connection and sends what does not belong there',
    refused: refusedWith('BAD_FRAME'),
    mount: async (company) => {
      const listener = await BulkListener.start([], 0)
      await answerQuestions(company, (question, { send }) => {
        if (question.type !== 'open-bulk') return
        const session = listener.offer((channel) => {
          channel.send(encodeExchangeMessage({ type: 'no-blob', sha256: '00'.repeat(32) }), new Uint8Array())
          company.did()
        })
        send({ type: 'bulk', ...session })
      })
    },
  },
  {
    name: 'asks-for-all',
    does: 'asks about ten thousand artifacts',
    refused: refusedWith('FLOOD'),
    mount: (company) =>
      askDevices(company, (asked) =>
        flood(company, asked, () => ({ type: 'ask', artifact: randomBytes(32).toString('hex') })),
      ),
  },
  {
    name: 'wants-without-end',
    does: 'wants the same chunks over and over and reads nothing',
    refused: undefined,
    mount: (company) => {
      const [prize] = company.prizes
      return askDevices(company, (asked) => {
        asked.send({ type: 'ask', artifact: prize?.index.id ?? '' })
        const chunks = Array.from({ length: MAX_CHUNKS_PER_MESSAGE }, (_, at) => at % (prize?.index.count ?? 1))
        return flood(company, asked, () => ({ type: 'want', artifact: prize?.index.id ?? '', chunks }), 20)
      })
    },
  },
  {
    name: 'streams-without-end',
    does: 'opens five thousand streams and says nothing on them',
    refused: refusedWith('FLOOD'),
    mount: async (company) => {
      const offender = await joinAsMember(company)
      for (const { id } of offender.node.members()) {
        void repeat(1_250, async () => {
          const stream = await offender.node.open(id, METADATA_PROTOCOL)
          company.did()
          // Its own libp2p would not let it have more than 64 open.
          setTimeout(() => stream.abort(new Error('next')), 100)
        })
      }
    },
  },
  {
    name: 'frames-never-finished',
    does: 'sixty streams, each announcing two megabytes of which only the head comes',
    refused: undefined,
    mount: async (company) => {
      const offender = await joinAsMember(company)
      for (const { id } of offender.node.members()) {
        void repeat(60, async () => {
          const stream = await offender.node.open(id, RECORD_SYNC_PROTOCOL)
          stream.send(Uint8Array.of(...int32(2 * 2 ** 20), 123))
          company.did()
        })
      }
    },
  },
]

function prizeAsked({ prizes }: Company, question: ExchangeMessage): Prize | undefined {
  return prizes.find(({ index }) => 'artifact' in question && index.id === question.artifact)
}

/** Offers every chunk of the prizes; `payload` says what is sent for one, undefined for nothing. */
function offer(company: Company, payload: (chunk: number, prize: Prize) => Uint8Array | undefined): Promise<void> {
  return answerQuestions(company, (question, asked) => {
    const prize = prizeAsked(company, question)
    if (prize === undefined) return
    const { id: artifact, count } = prize.index
    const give = (chunk: number) => {
      company.did()
      const bytes = payload(chunk, prize)
      if (bytes !== undefined) asked.send({ type: 'chunk', artifact, chunk, payload: bytes })
    }
    // Not all chunks: then it is asked by number.
    if (question.type === 'ask') {
      const have = Bitmap.full(count)
      if (count > 1) have.remove(0)
      asked.send({ type: 'have', artifact, size: count, bits: have.bytes.slice() })
    } else if (question.type === 'want') for (const chunk of question.chunks) give(chunk)
  })
}

/** Offers everything; answers with the head of a chunk's frame, then a byte every `everyMs`, or nothing more. */
function trickle(company: Company, everyMs: number | undefined): Promise<void> {
  const begun = new Set<string>()
  return answerQuestions(company, (question, asked, peer) => {
    const prize = prizeAsked(company, question)
    if (prize === undefined) return
    if (question.type === 'ask') {
      const have = Bitmap.full(prize.index.count)
      asked.send({ type: 'have', artifact: prize.index.id, size: have.size, bits: have.bytes.slice() })
      return
    }
    if (begun.has(peer)) return
    begun.add(peer)
    company.did()
    asked.raw(Uint8Array.of(...int32(37 + 60_000), 8))
    if (everyMs === undefined) return
    void repeat(100_000, async () => {
      await pause(everyMs)
      asked.raw(Uint8Array.of(0))
      company.did()
    })
  })
}

/** Sends without end, as fast as the stream takes it. */
async function flood(
  company: Company,
  { frames, send }: Asked,
  next: () => Parameters<Asked['send']>[0],
  everyMs = 0,
): Promise<void> {
  while (!frames.closed) {
    company.did()
    if (!send(next())) await frames.drained()
    await pause(everyMs)
  }
}
