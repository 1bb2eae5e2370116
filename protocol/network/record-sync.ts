import { FlotillaError } from '../errors.ts'
import type { DigestLine, HeardRecord } from '../gossip/record-book.ts'
import { parseJson, shape } from '../shape.ts'
import type { KnownPeer } from './dialer.ts'
import { FrameStream } from './frame-stream.ts'
import { parseKnownPeer } from './hello.ts'
import type { Stream } from '@libp2p/interface'

/** Compares digests of device records with one peer and gives each side what it lacks. */
export const RECORD_SYNC_PROTOCOL = '/flotilla/records/1'

/** What a side brings to the exchange and gets from it. */
export type SyncSide = {
  readonly summary: () => string
  readonly digest: () => readonly DigestLine[]
  readonly newerThan: (digest: readonly DigestLine[]) => readonly HeardRecord[]
  /** Takes one record from the peer; it is verified there. */
  readonly take: (bytes: Uint8Array, ageMs: number) => void
  readonly peers: () => readonly KnownPeer[]
  readonly takePeer: (peer: KnownPeer) => void
}

const MAX_SYNC_BYTES = 2 * 2 ** 20
const MAX_RECORDS = 128
const TIMEOUT_MS = 10_000

/**
 * The asking side: summary → (equal: done) → the answering side's digest → own digest and the records it lacks → the
 * records that are lacking here. At most 128 records each way; what is left comes with the next exchange. Peers'
 * addresses travel along, so that a device found by one is found by all.
 * @see protocol/spec/gossip.md, "Digest exchange"
 */
export async function askRecords(stream: Stream, side: SyncSide): Promise<void> {
  const frames = new FrameStream(stream, { maxFrameBytes: () => MAX_SYNC_BYTES })
  frames.send(encode({ summary: side.summary(), peers: peersToTell(side) }))
  const answer = parse(await frames.next(TIMEOUT_MS))
  takePeers(answer, side)
  if (answer['equal'] !== true) {
    const records = packRecords(side.newerThan(parseDigest(answer)))
    frames.send(encode({ digest: side.digest(), records }))
    takeRecords(parse(await frames.next(TIMEOUT_MS)), side)
  }
  await frames.close()
}

/** The answering side. */
export async function answerRecords(stream: Stream, side: SyncSide): Promise<void> {
  const frames = new FrameStream(stream, { maxFrameBytes: () => MAX_SYNC_BYTES })
  const question = parse(await frames.next(TIMEOUT_MS))
  takePeers(question, side)
  if (question['summary'] === side.summary()) {
    frames.send(encode({ equal: true, peers: peersToTell(side) }))
  } else {
    const more = frames.next(TIMEOUT_MS)
    frames.send(encode({ digest: side.digest(), peers: peersToTell(side) }))
    const theirs = parse(await more)
    const records = packRecords(side.newerThan(parseDigest(theirs)))
    takeRecords(theirs, side)
    frames.send(encode({ records }))
  }
  await frames.close()
}

type Json = ReturnType<typeof shape.object>

function encode(value: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(value))
}

function parse(bytes: Uint8Array): Json {
  return shape.object(parseJson(bytes, 'record exchange', MAX_SYNC_BYTES), 'record exchange')
}

function parseDigest(json: Json): DigestLine[] {
  return shape.array(json['digest'], 'record exchange: digest', 4_096).map((item) => {
    const line = shape.object(item, 'record exchange: digest[]')
    return {
      device: shape.string(line['device'], 'digest[].device', 128),
      seq: shape.integer(line['seq'], 'digest[].seq', 0),
    }
  })
}

function packRecords(records: readonly HeardRecord[]) {
  return records
    .slice(0, MAX_RECORDS)
    .map(({ signed, ageMs }) => ({ record: Buffer.from(signed.bytes).toString('base64'), ageMs: Math.round(ageMs) }))
}

function takeRecords(json: Json, side: SyncSide): void {
  for (const item of shape.array(json['records'], 'record exchange: records', MAX_RECORDS)) {
    const entry = shape.object(item, 'record exchange: records[]')
    side.take(
      Buffer.from(shape.string(entry['record'], 'records[].record', 16_384), 'base64'),
      shape.integer(entry['ageMs'], 'records[].ageMs', 0),
    )
  }
}

function peersToTell(side: SyncSide): readonly KnownPeer[] {
  return side.peers().slice(0, 16)
}

function takePeers(json: Json, side: SyncSide): void {
  if (json['peers'] === undefined) return
  for (const item of shape.array(json['peers'], 'record exchange: peers', 16)) {
    try {
      side.takePeer(parseKnownPeer(item))
    } catch (error) {
      if (!(error instanceof FlotillaError)) throw error // one bad address is skipped, the rest is of use
    }
  }
}
