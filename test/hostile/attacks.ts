import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { Bitmap } from '../../protocol/exchange/bitmap.ts'
import {
  encodeExchangeMessage,
  type ExchangeMessage,
  MAX_CHUNKS_PER_MESSAGE,
} from '../../protocol/exchange/messages.ts'
import { parseRecord, signRecord } from '../../protocol/gossip/device-record.ts'
import { signCertificate } from '../../protocol/membership/certificate.ts'
import { BulkListener } from '../../protocol/network/bulk-channel.ts'
import { EXCHANGE_PROTOCOL } from '../../protocol/network/exchange-driver.ts'
import { type FleetNode, TOPICS } from '../../protocol/network/fleet-node.ts'
import { identityFromSeed } from '../../protocol/network/identity.ts'
import { METADATA_PROTOCOL, serveBundle } from '../../protocol/network/metadata-exchange.ts'
import { askRecords, RECORD_SYNC_PROTOCOL } from '../../protocol/network/record-sync.ts'
import type { MetadataBundle } from '../../protocol/trust/metadata-bundle.ts'
import { Repository } from '../../builder/release/repository.ts'
import {
  type Asked,
  answerAsks,
  answerQuestions,
  askDevices,
  type Company,
  joinAsMember,
  recordOf,
  type Prize,
  startNode,
  stolenCa,
  stolenDevice,
} from './company.ts'

/** One way to be bad company. */
export type Attack = {
  readonly name: string
  /** What it does, in a line of the table. */
  readonly does: string
  /** The event and code with which a device refuses it; undefined where there is nothing to refuse, only to bear. */
  readonly refused: { readonly event: string; readonly code: string } | undefined
  /** Starts it and leaves it running. */
  readonly mount: (company: Company) => Promise<void>
}

const refusedWith = (code: string, event = 'peer-refused') => ({ event, code })
const AHEAD = { root: 1, timestamp: 999_999 }

/** Every attack that is mounted, in order. @see protocol/spec/threats.md */
export const ATTACKS: readonly Attack[] = [
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
    mount: async (company) => {
      const offender = await joinAsMember(company)
      await answerQuestions(offender, (_question, { send }) => {
        send({ type: 'blob', sha256: '00'.repeat(32), payload: randomBytes(60_000) })
        company.did()
      })
    },
  },
  {
    name: 'bad-bulk',
    does: 'hands out a bulk connection and sends what does not belong there',
    refused: refusedWith('BAD_FRAME'),
    mount: async (company) => {
      const offender = await joinAsMember(company)
      const listener = await BulkListener.start([], 0)
      await answerQuestions(offender, (question, { send }) => {
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
    mount: async (company) => {
      const offender = await joinAsMember(company)
      await askDevices(offender, (asked) =>
        flood(company, asked, () => ({ type: 'ask', artifact: randomBytes(32).toString('hex') })),
      )
    },
  },
  {
    name: 'wants-without-end',
    does: 'wants the same chunks over and over and reads nothing',
    refused: undefined,
    mount: async (company) => {
      const offender = await joinAsMember(company)
      const [prize] = company.prizes
      await askDevices(offender, (asked) => {
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
  {
    name: 'idle-connections',
    does: 'a thousand connections to each port of which none says anything',
    refused: undefined,
    mount: async (company) => {
      for (const address of company.addresses) {
        const [, , host = '', , port = ''] = address.split('/')
        for (const target of [Number(port), Number(port) + 1]) {
          void repeat(1_000, async () => {
            connect(target, host)
              .on('error', () => {})
              .once('connect', () => company.did())
            await pause(1)
          })
        }
      }
      await pause(0)
    },
  },
  {
    name: 'forged-identities',
    does: 'ten thousand identities with certificates of a CA of its own',
    refused: refusedWith('NOT_A_MEMBER'),
    mount: async (company) => {
      void repeat(10_000, async () => {
        const { identity, certificate } = stranger(company)
        const node = await startNode(company, identity, certificate, { root: 1, timestamp: 1 })
        company.did()
        await pause(20)
        await node.stop()
      })
      await pause(0)
    },
  },
  {
    name: 'forged-records',
    does: 'ten thousand records of devices that a CA of its own admits',
    refused: refusedWith('BAD_NEWS'),
    mount: async (company) => {
      const offender = await joinAsMember(company)
      void repeat(10_000, async (at) => {
        const { identity, certificate } = stranger(company)
        const record = { ...offender.record(at), device: identity.id }
        await offender.node.publish(TOPICS.records, signRecord(record, certificate, identity.sign))
        company.did()
      })
    },
  },
  {
    name: 'true-records',
    does: 'thousands of records of devices that a stolen CA key admits; a device keeps 2 000',
    refused: undefined,
    mount: async (company) => {
      const ca = stolenCa(company.repository)
      const { fleet } = company.repository
      const ghost = (name: string) => {
        const { id: device, sign } = identityFromSeed(randomBytes(32))
        const card = { fleet, device, name, board: 'pi-4', capabilities: ['sync'] as const, serial: 1, epoch: 1 }
        const certificate = signCertificate(card, ca.publicHex, ca.sign)
        return { signed: parseRecord(signRecord(recordOf(device, 1), certificate, sign)), ageMs: 0 }
      }
      const offender = await joinAsMember(company)
      void repeat(80, async (round) => {
        const batch = Array.from({ length: 128 }, (_, at) => ghost(`ghost-${round}-${at}`))
        await Promise.all(
          offender.node.members().map(async ({ id }) => {
            await askRecords(await offender.node.open(id, RECORD_SYNC_PROTOCOL), {
              summary: () => '',
              digest: () => [],
              newerThan: () => batch,
              take: () => {},
              peers: () => [],
              takePeer: () => {},
            })
            company.did(batch.length)
          }),
        )
      })
    },
  },
  {
    name: 'record-flood',
    does: 'its own record, newly signed, as fast as it can',
    refused: refusedWith('FLOOD'),
    mount: async (company) => {
      const offender = await joinAsMember(company)
      void repeat(20_000, async (at) => {
        const record = signRecord(offender.record(at), offender.certificate, offender.identity.sign)
        await offender.node.publish(TOPICS.records, record)
        company.did()
      })
    },
  },
  {
    name: 'repeated-news',
    does: "repeats another member's signed news as fast as that one could never tell it",
    refused: refusedWith('BAD_NEWS'),
    mount: async (company) => {
      const offender = await joinAsMember(company)
      const { seed, certificate } = stolenDevice(company.victim)
      const victim = identityFromSeed(seed)
      void repeat(400, async (at) => {
        // Told by the offender: what the victim itself may say must not be used up by it.
        const record = signRecord(recordOf(victim.id, at), certificate, victim.sign)
        await offender.node.publish(TOPICS.records, record)
        company.did()
        await pause(10)
      })
    },
  },
  {
    name: 'old-records',
    does: 'a record that was superseded, told again and again',
    refused: undefined,
    mount: async (company) => {
      const offender = await joinAsMember(company)
      const sign = (seq: number) => signRecord(offender.record(seq), offender.certificate, offender.identity.sign)
      await offender.node.publish(TOPICS.records, sign(10))
      void repeat(9, async (at) => {
        await offender.node.publish(TOPICS.records, sign(at))
        company.did()
        await pause(200)
      })
    },
  },
  {
    name: 'cloned-key',
    does: "a copy of a device's disk, switched on elsewhere",
    refused: refusedWith('TWICE'),
    mount: async (company) => {
      const { seed, certificate } = stolenDevice(company.victim)
      const identity = identityFromSeed(seed)
      const others = { ...company, addresses: company.addresses.slice(1) }
      const node = await startNode(others, identity, certificate, { root: 1, timestamp: 0 })
      void repeat(1_000, async (at) => {
        // As if it were switched off and on again and again.
        const record = recordOf(identity.id, (at + 5) * 2 ** 24)
        await node.publish(TOPICS.records, signRecord(record, certificate, identity.sign))
        company.did()
        await pause(500)
      })
    },
  },
  {
    name: 'stranger',
    does: 'a certificate of a CA of its own',
    refused: refusedWith('NOT_A_MEMBER'),
    mount: async (company) => {
      const { identity, certificate } = stranger(company)
      await startNode(company, identity, certificate, { root: 1, timestamp: 1 })
      company.did()
    },
  },
  {
    name: 'old-metadata',
    does: 'claims to be ahead and hands out superseded metadata',
    refused: refusedWith('ROLLBACK', 'metadata-refused'),
    mount: (company) => {
      const superseded = { ...Repository.open(`${company.repository.path}-old`).bundle(), roots: [] }
      return serveMetadata(company, () => superseded)
    },
  },
  {
    name: 'unsigned-metadata',
    does: 'claims to be ahead and hands out altered timestamp metadata',
    refused: refusedWith('SIGNATURE', 'metadata-refused'),
    mount: (company) =>
      serveMetadata(company, (bundle) => {
        const text = Buffer.from(bundle.timestamp ?? '').toString()
        return { ...bundle, timestamp: Buffer.from(text.replace(/"version":\d+\}/, '"version":999999}')) }
      }),
  },
  {
    name: 'withheld-snapshot',
    does: 'a genuine new timestamp, without the snapshot that it names',
    refused: refusedWith('MISSING', 'metadata-refused'),
    mount: (company) => serveMetadata(company, (bundle) => ({ ...bundle, snapshot: undefined, roles: new Map() })),
  },
  {
    name: 'costly-metadata',
    does: 'a bundle as large as is read, nested as deep and signed as often as a file may be, with no good signature',
    refused: refusedWith('SIGNATURE', 'metadata-refused'),
    mount: (company) =>
      serveMetadata(company, (bundle) => {
        const signatures = JSON.stringify(
          Array.from({ length: 16 }, () => ({ keyid: randomBytes(32).toString('hex'), sig: 'cd'.repeat(64) })),
        )
        const file = (padding: number) =>
          Buffer.from(
            `{"signatures":${signatures},"signed":${'{"a":'.repeat(30)}"${'x'.repeat(padding)}"${'}'.repeat(30)}}`,
          )
        const roles = new Map(Array.from({ length: 12 }, (_, at) => [`board-${at}.stable`, file(100_000)]))
        return { ...bundle, timestamp: file(0), snapshot: file(100_000), roles }
      }),
  },
]

function prizeAsked({ prizes }: Company, question: ExchangeMessage): Prize | undefined {
  return prizes.find(({ index }) => 'artifact' in question && index.id === question.artifact)
}

/** Offers every chunk of the prizes; `payload` says what is sent for one, undefined for nothing. */
async function offer(
  company: Company,
  payload: (chunk: number, prize: Prize) => Uint8Array | undefined,
): Promise<void> {
  const offender = await joinAsMember(company)
  await answerQuestions(offender, (question, asked) => {
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
async function trickle(company: Company, everyMs: number | undefined): Promise<void> {
  const offender = await joinAsMember(company)
  const begun = new Set<string>()
  await answerQuestions(offender, (question, asked, peer) => {
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

function int32(value: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(value).buffer)
}

/** Claims to be ahead and answers every question for metadata with what `spoil` makes of the newest genuine set. */
async function serveMetadata(company: Company, spoil: (bundle: MetadataBundle) => MetadataBundle): Promise<void> {
  const serve = (node: FleetNode) =>
    node.handle(METADATA_PROTOCOL, (stream) => {
      company.did()
      return serveBundle(stream, () => spoil({ ...company.repository.bundle(), roots: [] }))
    })
  const offender = await joinAsMember(company, AHEAD, serve)
  void repeat(100_000, async () => {
    await offender.node.publish(TOPICS.announce, Buffer.from(JSON.stringify(AHEAD)))
    await pause(300)
  })
}

function stranger(company: Company): {
  readonly identity: ReturnType<typeof identityFromSeed>
  readonly certificate: Uint8Array
} {
  const ca = identityFromSeed(randomBytes(32))
  const identity = identityFromSeed(randomBytes(32))
  const card = {
    fleet: company.repository.fleet,
    device: identity.id,
    name: 'stranger',
    board: 'pi-4',
    capabilities: ['sync' as const],
    serial: 1,
    epoch: 1,
  }
  return {
    identity,
    certificate: signCertificate(card, ca.publicHex, ca.sign),
  }
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

/** Again and again; what the other side cuts does not end it. */
async function repeat(times: number, act: (at: number) => Promise<void>): Promise<void> {
  for (let at = 0; at < times; at += 1) {
    await act(at).catch(() => pause(5))
    await new Promise((resolve) => setImmediate(resolve)) // an act may never have waited
  }
}
