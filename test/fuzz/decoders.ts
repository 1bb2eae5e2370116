import { createHash } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import { parseAgentConfig } from '../../agent/config.ts'
import { firstBootRecords, chooseBoot, encodeBootRecord, parseBootRecord } from '../../protocol/boot/boot-record.ts'
import { encodeList, parseList } from '../../protocol/backup/repository-list.ts'
import { parseQuestion } from '../../protocol/network/backup-exchange.ts'
import { encodeChunkIndex, parseChunkIndex } from '../../protocol/chunks/chunk-index.ts'
import { squashfsBoundaries } from '../../protocol/chunks/squashfs-boundaries.ts'
import { parseSkiffCore } from '../../protocol/core/skiff-core.ts'
import { Bitmap } from '../../protocol/exchange/bitmap.ts'
import { ExchangeEngine } from '../../protocol/exchange/engine.ts'
import { encodeExchangeMessage, type ExchangeMessage, parseExchangeMessage } from '../../protocol/exchange/messages.ts'
import { type DeviceRecord, parseRecord, signRecord } from '../../protocol/gossip/device-record.ts'
import { admit, parseCertificate, signCertificate } from '../../protocol/membership/certificate.ts'
import { encodeFleetPolicy, type FleetPolicy, parseFleetPolicy } from '../../protocol/membership/fleet-policy.ts'
import { encodeAdvertisement, encodeQuery, parsePacket } from '../../protocol/network/discovery/service-packet.ts'
import { encodeHello, parseAddress, parseHello } from '../../protocol/network/hello.ts'
import { identityFromSeed } from '../../protocol/network/identity.ts'
import { encodeBundle, parseBundle } from '../../protocol/network/metadata-exchange.ts'
import { encodeRelease, parseRelease } from '../../protocol/release/description.ts'
import { sampleDescription } from '../../protocol/release/sample-description.ts'
import { NO_ROLLOUT } from '../../protocol/rollout/rollout-plan.ts'
import { judgeBundle } from '../../protocol/trust/metadata-bundle.ts'
import { DEVICE_RULES, trustRoot } from '../../protocol/trust/trusted-set.ts'
import { ToyRepository } from '../trust/toy-repository.ts'

/** A decoder of bytes from outside. `run` returns or throws a coded error for any bytes; anything else is a finding. */
export type Decoder = { readonly seeds: readonly Uint8Array[]; readonly run: (bytes: Uint8Array) => void }

const HASH = 'ab'.repeat(32)
const device = identityFromSeed(Buffer.alloc(32, 7))
const ca = identityFromSeed(Buffer.alloc(32, 9))
const policy: FleetPolicy = {
  schema: 1,
  fleet: 'yard',
  caKeys: [ca.publicHex],
  minEpoch: 1,
  revoked: ['12D3KooWx'],
  recoveryKey: HASH,
  claims: [{ repository: `${device.id}.1`, to: device.id, epoch: 2, from: device.id, fromEpoch: 1, sealed: 'abcd' }],
}
const certificate = signCertificate(
  { fleet: 'yard', device: device.id, name: 'r1', board: 'pi-4', capabilities: ['sync'], serial: 1, epoch: 1 },
  ca.publicHex,
  ca.sign,
)
const record: DeviceRecord = {
  device: device.id,
  seq: 5,
  name: 'r1',
  board: 'pi-4',
  channel: 'stable',
  state: 'trial',
  running: { id: HASH, version: '1', era: 1, seq: 3, soaked: true },
  next: { id: HASH, version: '2', percent: 50 },
  holds: [HASH],
  failed: { id: HASH, version: '1', reason: 'r', log: 'l' },
  wishes: HASH,
  halted: { id: HASH, reason: 'r' },
  trust: { root: 1, timestamp: 2 },
  holdReason: '',
  labels: { cell: 'hall' },
  radio: true,
  backup: {
    repository: `${device.id}.1`,
    epoch: 0,
    seq: 4,
    list: HASH,
    listBytes: 90,
    bytes: 5,
    copies: 3,
    bytesPerSecond: 0,
    hoursOld: 1,
    sealed: 'ab',
    distrusted: [device.id],
  },
  holder: {
    offeredBytes: 9,
    freeBytes: 8,
    mostBytes: 7,
    replicas: [{ repository: `${device.id}.2`, epoch: 1, seq: 2, percent: 100, daysUnchecked: 3 }],
    sealKey: HASH,
  },
}
const index = encodeChunkIndex(
  [3, 5, 7].map((lengthBytes) => ({ sha256: createHash('sha256').update(String(lengthBytes)).digest(), lengthBytes })),
)
const messages: readonly ExchangeMessage[] = [
  { type: 'ask', artifact: index.id },
  { type: 'want', artifact: index.id, chunks: [0, 2] },
  { type: 'want-any', artifact: index.id, count: 2, size: 3, bits: Uint8Array.of(7) },
  { type: 'cancel', artifact: index.id, chunks: [1] },
  { type: 'fetch', sha256: HASH, maxBytes: 9 },
  { type: 'have', artifact: index.id, size: 3, bits: Uint8Array.of(5) },
  { type: 'gained', artifact: index.id, chunks: [1] },
  { type: 'lost', artifact: index.id, chunks: [1] },
  { type: 'chunk', artifact: index.id, chunk: 0, payload: Buffer.from('abc') },
  { type: 'reject', artifact: index.id, chunk: 2, code: 'busy' },
  { type: 'spent', artifact: index.id },
  { type: 'blob', sha256: HASH, payload: Buffer.from('x') },
  { type: 'no-blob', sha256: HASH },
  { type: 'open-bulk' },
  { type: 'bulk', key: new Uint8Array(32), id: new Uint8Array(16), port: 4849 },
]
const frames = messages.map((message) => encodeExchangeMessage(message))
const toy = new ToyRepository()
const root = toy.roots[0] ?? new Uint8Array()
const yaml = `hardware: pi4b
listen: [0.0.0.0]
health: {peers: must, engine: off}
maintenance: ["22:00-06:00"]
labels: &a {b: c}
traffic: {sendKiB: 5, quietHours: ["08:00-18:00"]}
`

const core = `containers:
  a: &base {image: i, backup: {schedule: every 6h, keep: {last: 2}, exclude: [x]}, mounts: ["/dev:/dev"], env: [A=1], ulimits: {nofile: 1}, memory: 5m, healthCheck: {test: [a]}}
  b: *base
users: {core: {container: a, auth: {sshKeys: [k]}}}
images: {i: {pull: {policy: ifnotexists}, build: {source: /x, buildArgs: {A: 1}}}}
`

/** Everything that reads bytes from peers, from disk or from a person, and can be run without I/O. */
export const DECODERS: Readonly<Record<string, Decoder>> = {
  exchangeMessage: decoder(frames, (bytes) => {
    const message = parseExchangeMessage(bytes)
    if (message !== undefined) same(parseExchangeMessage(encodeExchangeMessage(message)), message)
  }),
  engine: decoder([script(frames), script([...frames, ...frames])], runEngine),
  hello: decoder(
    [
      encodeHello({
        type: 'hello',
        certificate,
        trust: { root: 1, timestamp: 2 },
        addresses: ['/ip4/10.0.0.1/tcp/1'],
        radio: true,
      }),
      encodeHello({ type: 'refused', code: 'REVOKED', peers: [] }),
    ],
    (bytes) => {
      const hello = parseHello(bytes)
      same(parseHello(encodeHello(hello)), hello)
    },
  ),
  address: decoder(texts('/ip4/1.2.3.4/tcp/80', '/ip6/fe80::1/tcp/65535', '/dns4/a.b/tcp/1'), (bytes) => {
    parseAddress(text(bytes))
  }),
  metadataBundle: decoder([encodeBundle(toy.bundle(0)), encodeBundle(toy.bundle())], (bytes) => {
    const bundle = parseBundle(bytes)
    same(parseBundle(encodeBundle(bundle)), bundle)
    judgeBundle(trustRoot(root, 0, DEVICE_RULES), bundle, DEVICE_RULES)
  }),
  advertisement: decoder(
    [
      encodeQuery(),
      encodeAdvertisement({ id: device.id, name: 'r1', fleet: 'yard', port: 4848, addresses: ['10.0.0.1', 'fd00::1'] }),
    ],
    (bytes) => {
      parsePacket(bytes).asksFor({ id: device.id, name: 'r1' })
    },
  ),
  deviceRecord: decoder([signRecord(record, certificate, device.sign)], (bytes) => {
    const parsed = parseRecord(bytes)
    same(parseRecord(signRecord(parsed.record, certificate, device.sign)).record, parsed.record)
  }),
  certificate: decoder([certificate], (bytes) => {
    const parsed = parseCertificate(bytes)
    admit(parsed, parsed.certificate.device, policy)
  }),
  repositoryList: decoder([encodeList([{ kind: 'data', sha256: HASH, lengthBytes: 5 }])], (bytes) => {
    const files = parseList(bytes)
    same(parseList(encodeList(files)), files)
  }),
  backupQuestion: decoder(
    texts(
      JSON.stringify({ repository: `${device.id}.1`, kind: 'data', sha256: HASH, offset: 0, lengthBytes: 9 }),
      JSON.stringify({
        repository: `${device.id}.1`,
        kind: 'head',
        sha256: HASH,
        offset: 5,
        lengthBytes: 1,
        nonce: '0'.repeat(32),
      }),
    ),
    (bytes) => void parseQuestion(bytes),
  ),
  fleetPolicy: decoder([encodeFleetPolicy(policy)], (bytes) => {
    const parsed = parseFleetPolicy(bytes)
    same(parseFleetPolicy(encodeFleetPolicy(parsed)), parsed)
  }),
  chunkIndex: decoder([index.bytes, encodeChunkIndex([]).bytes], (bytes) => {
    parseChunkIndex(bytes)
  }),
  squashfs: decoder([new Uint8Array(96)], (bytes) => {
    squashfsBoundaries((at, length) => bytes.subarray(at, at + length), bytes.length)
  }),
  releaseDescription: decoder(
    [
      encodeRelease(sampleDescription({ rollout: { ...NO_ROLLOUT, canaries: { role: 'test' }, shares: [10, 100] } }))
        .bytes,
      encodeRelease(
        sampleDescription({
          artifacts: [
            { name: 'a/b', kind: 'dtb', lengthBytes: 7, sha256: HASH, index: { lengthBytes: 96, sha256: HASH } },
          ],
        }),
      ).bytes,
    ],
    (bytes) => {
      const { description } = parseRelease(bytes)
      same(encodeRelease(description).description, description)
    },
  ),
  bootRecord: decoder(
    firstBootRecords('ab'.repeat(8)).map(({ bytes }) => bytes),
    (bytes) => {
      const parsed = parseBootRecord(bytes)
      if (parsed === undefined) return
      const { write } = chooseBoot(parsed)
      if (write !== undefined) same(parseBootRecord(encodeBootRecord(write)), write)
    },
  ),
  agentConfig: decoder(texts(yaml, 'hardware: x\n<<: *a\n', '? [a]\n: b\n'), (bytes) => {
    parseAgentConfig(text(bytes), 'agent.yaml')
  }),
  skiffCore: decoder(texts(core, 'prune: true\ncontainers:\n  a:\n    image: i\n    image: i\n'), (bytes) => {
    const { core: found } = parseSkiffCore(text(bytes), 'skiff-core.yaml', { lenient: true })
    for (const { container } of found.users.values())
      if (!found.containers.has(container)) throw new Error(`a user of ${container}, which is not there`)
  }),
}

function decoder(seeds: readonly Uint8Array[], run: Decoder['run']): Decoder {
  return { seeds, run }
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString()
}

function texts(...all: readonly string[]): readonly Uint8Array[] {
  return all.map((one) => Buffer.from(one))
}

function same(found: unknown, wanted: unknown): void {
  if (!isDeepStrictEqual(found, wanted)) {
    throw new Error(`does not come back as it was: ${JSON.stringify(found)} / ${JSON.stringify(wanted)}`.slice(0, 600))
  }
}

/** Frames as a conversation: peer u8, length u8, frame. */
function script(all: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(all.flatMap((frame, at) => [Buffer.from([at, frame.length]), frame]))
}

/** Two peers say anything at all to an engine that has part of an artifact: what it does must be sound and bounded. */
function runEngine(bytes: Uint8Array): void {
  const engine = new ExchangeEngine(() => 0.5)
  let nowMs = 0
  let effects = 0
  const step = (input: Parameters<typeof engine.step>[0]): void => {
    nowMs += 100
    for (const effect of engine.step(input, nowMs)) {
      effects += 1
      if (effect.type === 'send') parseExchangeMessage(encodeExchangeMessage(effect.message))
      if (effect.type !== 'serve' && effect.type !== 'store') continue
      if (effect.chunk >= index.count) throw new Error(`${effect.type} of chunk ${effect.chunk}, which does not exist`)
      if (effect.type === 'serve') step({ type: 'sent', peer: effect.peer })
      else
        step({ ...effect, type: effect.payload.length === index.lengths[effect.chunk] ? 'chunk-stored' : 'chunk-bad' })
    }
  }
  step({ type: 'want-artifact', index, have: new Bitmap(3, Uint8Array.of(2)), priority: 1 })
  for (const peer of ['a', 'b']) step({ type: 'peer-joined', peer })
  let inputs = 3
  for (let at = 0; at + 2 <= bytes.length; inputs += 1) {
    const peer = ((bytes[at] ?? 0) & 1) === 0 ? 'a' : 'b'
    const end = at + 2 + (bytes[at + 1] ?? 0)
    const message = parseExchangeMessage(bytes.subarray(at + 2, end))
    if (message !== undefined) step({ type: 'message', peer, message })
    step({ type: 'tick' })
    at = end
  }
  if (effects > 600 * inputs) throw new Error(`${effects} effects of ${inputs} inputs`)
}
