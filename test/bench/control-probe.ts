// A member of the fleet that asks each of some others for a small file which they do not have, again and again, and does
// nothing else: one frame there and one back, over the same kind of connection and stream as every control message.
// `control-probe DEVICE_DIRECTORY ADDRESS…`; prints one line of JSON for each answer: address, atMs, roundTripMs.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { NodeDisk } from '../../agent/store/node-disk.ts'
import { TrustKeeper } from '../../agent/store/trust-keeper.ts'
import { TrustStore } from '../../agent/store/trust-store.ts'
import { parseCertificate } from '../../protocol/membership/certificate.ts'
import { encodeExchangeMessage, parseExchangeMessage } from '../../protocol/exchange/messages.ts'
import { EXCHANGE_PROTOCOL } from '../../protocol/network/exchange-driver.ts'
import { FleetNode } from '../../protocol/network/fleet-node.ts'
import { FrameStream } from '../../protocol/network/frame-stream.ts'
import { identityFromSeed } from '../../protocol/network/identity.ts'

const EVERY_MS = 50
/** The hash of a file that no member has. A stream of libp2p's ping would not do: the connection monitor needs the only one. */
const NOBODYS = '00'.repeat(32)

const [directory = '', ...addresses] = process.argv.slice(2)
const persist = join(directory, 'persist')
const certificate = readFileSync(join(persist, 'certificate.json'))
const identity = identityFromSeed(readFileSync(join(persist, 'identity.key')))
const { fleet, name } = parseCertificate(certificate).certificate
const trustStore = new TrustStore(new NodeDisk(persist))
const trust = new TrustKeeper(trustStore, await trustStore.load(), fleet)
const node = await FleetNode.start({
  identity,
  certificate,
  name,
  fleet,
  policy: () => trust.policy,
  trust: () => trust.versions,
  refreshTrust: () => Promise.resolve(),
  port: 4848,
  listenHosts: [],
  interfaces: [],
  discovery: false,
  staticPeers: [],
  remembered: [],
  events: { member: () => {}, memberGone: () => {}, refused: () => {}, gossip: () => 'ignore' },
})
// What others ask of this member finds an end, and no answer.
await node.handle(EXCHANGE_PROTOCOL, (stream) => {
  new FrameStream(stream, { maxFrameBytes: () => 65_536 }).onFrame = () => {}
})
for (const address of addresses) void measure(address)

async function measure(address: string): Promise<void> {
  const { id } = await node.reach(address)
  const frames = new FrameStream(await node.open(id, EXCHANGE_PROTOCOL), { maxFrameBytes: () => 65_536 })
  let heard: () => void = () => {}
  frames.onFrame = (frame) => {
    if (parseExchangeMessage(frame)?.type === 'no-blob') heard()
  }
  frames.onClose = () => {
    throw new Error(`${address} closed the stream`)
  }
  for (;;) {
    const atMs = Date.now()
    const sentMs = performance.now()
    await new Promise<void>((resolve) => {
      heard = resolve
      frames.send(encodeExchangeMessage({ type: 'fetch', sha256: NOBODYS, maxBytes: 1_024 }))
    })
    const roundTripMs = performance.now() - sentMs
    process.stdout.write(`${JSON.stringify({ address, atMs, roundTripMs })}\n`)
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, EVERY_MS - roundTripMs)))
  }
}
