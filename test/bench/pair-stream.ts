// One end of a bare libp2p stream: `serve ADDRESS BYTES` sends to whoever opens one, `fetch MULTIADDR` receives.
// Prints one line of JSON: where it listens, or what it measured.
import { noise } from '@chainsafe/libp2p-noise'
import type { Stream } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const PROTOCOL = '/bench/bytes/1'
const PIECE_BYTES = 65_536

const [role = '', address = '', count = '0'] = process.argv.slice(2)
const node = await createLibp2p({
  addresses: { listen: role === 'serve' ? [`/ip4/${address}/tcp/4900`] : [] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
})
const say = (value: unknown) => process.stdout.write(`${JSON.stringify(value)}\n`)

if (role === 'serve') {
  await node.handle(PROTOCOL, (stream) => send(stream, Number(count)))
  say({ address: node.getMultiaddrs()[0]?.toString() })
} else {
  const connection = await node.dial(multiaddr(address))
  const startedMs = performance.now()
  const cpu = process.cpuUsage()
  const stream = await connection.newStream(PROTOCOL)
  let bytes = 0
  stream.addEventListener('message', (event) => {
    bytes += event.data.byteLength
  })
  await new Promise((resolve) => {
    stream.addEventListener('remoteCloseWrite', resolve, { once: true })
    stream.addEventListener('close', resolve, { once: true })
  })
  const seconds = (performance.now() - startedMs) / 1_000
  const { user, system } = process.cpuUsage(cpu)
  say({ bytes, seconds, cpuSeconds: (user + system) / 1_000_000 })
  await stream.close().catch(() => {})
  await node.stop()
  process.exit(0)
}

async function send(stream: Stream, total: number): Promise<void> {
  const cpu = process.cpuUsage()
  const piece = new Uint8Array(PIECE_BYTES)
  for (let sent = 0; sent < total; sent += piece.length) {
    if (stream.send(piece.subarray(0, Math.min(piece.length, total - sent)))) continue
    await new Promise((resolve) => stream.addEventListener('drain', resolve, { once: true }))
  }
  await stream.close()
  const { user, system } = process.cpuUsage(cpu)
  say({ cpuSeconds: (user + system) / 1_000_000 })
}
