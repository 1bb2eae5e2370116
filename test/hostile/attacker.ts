import { randomBytes } from 'node:crypto'
import { Bitmap } from '../../protocol/exchange/bitmap.ts'
import { parseChunkIndex } from '../../protocol/chunks/chunk-index.ts'
import { signCertificate } from '../../protocol/membership/certificate.ts'
import { BulkListener } from '../../protocol/network/bulk-channel.ts'
import { ExchangeDriver } from '../../protocol/network/exchange-driver.ts'
import { FleetNode } from '../../protocol/network/fleet-node.ts'
import { identityFromSeed } from '../../protocol/network/identity.ts'
import { METADATA_PROTOCOL, serveBundle } from '../../protocol/network/metadata-exchange.ts'
import { enrol } from '../../builder/release/create-device.ts'
import { openKey, listKeys } from '../../builder/release/key-file.ts'
import { Repository } from '../../builder/release/repository.ts'
import type { MetadataBundle } from '../../protocol/trust/metadata-bundle.ts'

/**
 * A hostile peer, run as a program of its own: `attacker.ts MODE REPOSITORY ADDRESS…`.
 * wrong-chunks: a member that offers everything and sends noise; old-metadata and unsigned-metadata: members that claim
 * to be ahead and hand over superseded or altered metadata; stranger: certificate of a CA of its own.
 */
const [mode = '', path = '', ...addresses] = process.argv.slice(2)
const repository = Repository.open(path)
const seed = randomBytes(32)
const identity = identityFromSeed(seed)
const current = repository.bundle()
const policy = repository.policy()

function certificate(): Uint8Array {
  if (mode === 'stranger') {
    const ca = identityFromSeed(randomBytes(32))
    const publicHex = Buffer.from(ca.privateKey.publicKey.raw).toString('hex')
    const card = {
      fleet: repository.fleet,
      device: identity.id,
      name: 'stranger',
      board: 'pi-4',
      capabilities: ['sync' as const],
      serial: 1,
      epoch: 1,
    }
    return signCertificate(card, publicHex, ca.sign)
  }
  const ca = listKeys(repository.keysDirectory()).find((key) => key.purpose === 'ca')
  if (ca === undefined) throw new Error('no CA key')
  return enrol(
    repository,
    openKey(ca.path, process.env['FLOTILLA_PASSPHRASE'] ?? ''),
    { name: mode, board: 'pi-4', capabilities: ['sync', 'serve'] },
    seed,
  ).certificate
}

function bundle(): MetadataBundle {
  if (mode === 'unsigned-metadata') {
    const raised = Buffer.from(current.timestamp ?? '')
      .toString()
      .replace(/"version":\d+\}/, '"version":999}')
    return { ...current, roots: [], timestamp: Buffer.from(raised) }
  }
  return { ...current, roots: [] }
}

const node = await FleetNode.start({
  identity,
  certificate: certificate(),
  name: mode,
  fleet: repository.fleet,
  policy: () => policy,
  // Claims to be ahead, so that it is asked; wrong-chunks claims nothing.
  trust: () => (mode === 'wrong-chunks' ? { root: 1, timestamp: 1 } : { root: 1, timestamp: 999 }),
  refreshTrust: () => Promise.resolve(),
  port: 0,
  listenHosts: [],
  interfaces: [],
  discovery: false,
  staticPeers: addresses,
  remembered: [],
  events: {
    member: (member) => driver?.memberJoined(member.id),
    memberGone: (id) => driver?.memberGone(id),
    refused: (id, code) => process.stderr.write(`refused by or refusing ${id}: ${code}\n`),
    gossip: () => 'ignore',
  },
})
await node.handle(METADATA_PROTOCOL, (stream) => serveBundle(stream, bundle))
const lengths = new Map<string, Uint32Array>()
const driver = new ExchangeDriver(
  node,
  {
    readChunk: (artifact, chunk) => Promise.resolve(randomBytes(lengths.get(artifact)?.[chunk] ?? 1)),
    storeChunk: () => Promise.resolve('bad'),
    readBlob: () => Promise.resolve(undefined),
  },
  { complete: () => {}, fetched: () => {}, served: () => {}, storeFailed: () => {}, rotten: () => {} },
  await BulkListener.start([], 0),
)
for (const member of node.members()) driver.memberJoined(member.id)
await driver.start()
if (mode === 'wrong-chunks') {
  for (const { release } of repository.releases()) {
    for (const artifact of release.description.artifacts) {
      const index = parseChunkIndex(repository.readBlob(artifact.index.sha256) ?? new Uint8Array())
      lengths.set(index.id, index.lengths)
      driver.offer(index, Bitmap.full(index.count))
    }
  }
}
