import { randomBytes } from 'node:crypto'
import { closeSync, openSync, readFileSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Stream } from '@libp2p/interface'
import { enrol } from '../../builder/release/create-device.ts'
import { listKeys, openKey, type SigningKey } from '../../builder/release/key-file.ts'
import type { Repository } from '../../builder/release/repository.ts'
import { type ChunkIndex, parseChunkIndex } from '../../protocol/chunks/chunk-index.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import { type ExchangeMessage, encodeExchangeMessage, parseExchangeMessage } from '../../protocol/exchange/messages.ts'
import { BLANK_RECORD } from '../../protocol/gossip/blank-record.ts'
import { type DeviceRecord, signRecord } from '../../protocol/gossip/device-record.ts'
import type { TrustVersions } from '../../protocol/network/hello.ts'
import { EXCHANGE_PROTOCOL } from '../../protocol/network/exchange-driver.ts'
import { FleetNode } from '../../protocol/network/fleet-node.ts'
import { FrameStream } from '../../protocol/network/frame-stream.ts'
import { type Identity, identityFromSeed } from '../../protocol/network/identity.ts'

/** An artifact of the release that the devices are about to want. */
export type Prize = { readonly index: ChunkIndex; readonly read: (chunk: number) => Uint8Array }

/** What an attack has at hand: the fleet's repository (its offender stole what it needs) and the devices' addresses. */
export type Company = {
  readonly repository: Repository
  /** Of the devices, without peer ids. */
  readonly addresses: readonly string[]
  readonly prizes: readonly Prize[]
  /** The directory of one of the devices, for whoever copied its disk. */
  readonly victim: string
  /** Counts hostile acts: a test of a fault asserts that the fault happened. */
  readonly did: (count?: number) => void
}

/** A member that misbehaves: a real node of the fleet, with everything above the hello in the hands of the attack. */
export type Offender = {
  readonly node: FleetNode
  /** Its own record, signed. */
  readonly signedRecord: (seq: number) => Uint8Array
}

/** The newest release's artifacts, with their bytes. */
export function prizesOf(repository: Repository): readonly Prize[] {
  const newest = repository.releases().reduce((a, b) => (a.release.description.seq > b.release.description.seq ? a : b))
  return newest.release.description.artifacts.map((artifact) => {
    const index = parseChunkIndex(repository.readBlob(artifact.index.sha256) ?? new Uint8Array())
    const file = openSync(repository.artifactPath(artifact.sha256), 'r')
    process.once('exit', () => closeSync(file))
    const read = (chunk: number) => {
      const bytes = Buffer.alloc(index.lengths[chunk] ?? 0)
      readSync(file, bytes, 0, bytes.length, index.offsets[chunk] ?? 0)
      return bytes
    }
    return { index, read }
  })
}

/** The key that admits members, as if it had been stolen. */
export function stolenCa(repository: Repository): SigningKey {
  const ca = listKeys(repository.keysDirectory()).find((key) => key.purpose === 'ca')
  if (ca === undefined) throw new FlotillaError('NOT_FOUND', 'attack: the repository has no CA key')
  return openKey(ca.path, process.env['FLOTILLA_PASSPHRASE'] ?? '')
}

/** A device's own key and certificate, from a copy of its disk. */
export function stolenDevice(directory: string): { readonly seed: Uint8Array; readonly certificate: Uint8Array } {
  const read = (name: string) => readFileSync(join(directory, 'persist', name))
  return { seed: read('identity.key'), certificate: read('certificate.json') }
}

/**
 * Joins the fleet.
 * @param trust - what it claims to hold: above the truth, it is asked for metadata
 * @param prepare - what it must be able to do by the time it is asked
 */
export async function joinAsMember(
  company: Company,
  trust: TrustVersions = { root: 1, timestamp: 0 },
  prepare: (node: FleetNode) => Promise<void> = () => Promise.resolve(),
): Promise<Offender> {
  const { repository } = company
  const seed = randomBytes(32)
  const identity = identityFromSeed(seed)
  const device = { name: 'offender', board: 'pi-4', capabilities: ['sync', 'serve'] as const }
  const { certificate } = enrol(repository, stolenCa(repository), device, seed)
  const node = await startNode(company, identity, certificate, trust)
  await prepare(node)
  // It dials them by itself.
  while (node.members().length < company.addresses.length) await pause(50)
  const signedRecord = (seq: number) => signRecord(recordOf(identity.id, seq), certificate, identity.sign)
  return { node, signedRecord }
}

/** Starts a node with any certificate. It dials the devices by itself, again and again. */
export function startNode(
  company: Company,
  identity: Identity,
  certificate: Uint8Array,
  trust: TrustVersions,
): Promise<FleetNode> {
  const policy = company.repository.policy()
  return FleetNode.start({
    identity,
    certificate,
    name: 'offender',
    fleet: company.repository.fleet,
    policy: () => policy,
    trust: () => trust,
    refreshTrust: () => Promise.resolve(),
    port: 0,
    listenHosts: [],
    interfaces: [],
    discovery: false,
    staticPeers: company.addresses,
    remembered: [],
    events: { member: () => {}, memberGone: () => {}, refused: () => {}, gossip: () => 'ignore' },
  })
}

/** What a device of no release says of itself. */
export function recordOf(device: string, seq: number): DeviceRecord {
  return { ...BLANK_RECORD, device, seq, name: 'offender', trust: { root: 1, timestamp: 0 } }
}

/** The stream on which a device asks, in the hands of the attack. */
export type Asked = {
  readonly send: (message: ExchangeMessage) => boolean
  /** Bytes as they are, without the head of a frame. */
  readonly raw: (bytes: Uint8Array) => void
  readonly frames: FrameStream
}

/** Joins, and answers the devices' questions about chunks as `answer` likes. Chunks stay on the Noise stream. */
export async function answerQuestions(
  company: Company,
  answer: (question: ExchangeMessage, asked: Asked, peer: string) => void,
): Promise<void> {
  const { node } = await joinAsMember(company)
  await node.handle(EXCHANGE_PROTOCOL, (stream, peer) => {
    const frames = new FrameStream(stream, { maxFrameBytes: () => 65_536 })
    const asked = overStream(stream, frames)
    frames.onFrame = (frame) => {
      const question = parseExchangeMessage(frame)
      if (question !== undefined) answer(question, asked, peer)
    }
  })
}

/** Joins, and answers whenever a device asks about an artifact. */
export function answerAsks(
  company: Company,
  answer: (artifact: string, asked: Asked) => void | Promise<void>,
): Promise<void> {
  return answerQuestions(company, (question, asked) => {
    if (question.type === 'ask') void answer(question.artifact, asked)
  })
}

/** Joins, opens a stream of questions to every device and goes on with each. */
export async function askDevices(
  company: Company,
  ask: (asked: Asked, peer: string) => void | Promise<void>,
): Promise<void> {
  const { node } = await joinAsMember(company)
  await Promise.all(
    node.members().map(async ({ id }) => {
      const stream = await node.open(id, EXCHANGE_PROTOCOL)
      const frames = new FrameStream(stream, { maxFrameBytes: () => 262_144 })
      frames.onFrame = () => {}
      await ask(overStream(stream, frames), id)
    }),
  )
}

function overStream(stream: Stream, frames: FrameStream): Asked {
  return {
    frames,
    send: (message) => frames.send(encodeExchangeMessage(message)),
    raw: (bytes) => void (frames.closed || stream.send(bytes)),
  }
}
