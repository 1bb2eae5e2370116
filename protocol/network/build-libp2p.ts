import { noise } from '@chainsafe/libp2p-noise'
import { type GossipSub, gossipsub } from '@libp2p/gossipsub'
import { type Identify, identify } from '@libp2p/identify'
import type { PeerId } from '@libp2p/interface'
import { type Ping, ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { createLibp2p, type Libp2p } from 'libp2p'
import { type MemberGate, withGatedRegistrar } from './gated-registrar.ts'
import type { Identity } from './identity.ts'

/** The libp2p services of a fleet node. */
export type Services = { identify: Identify; ping: Ping; pubsub: GossipSub }

export type Libp2pOptions = {
  readonly identity: Identity
  readonly port: number
  readonly listenHosts: readonly string[]
  readonly topics: readonly string[]
  /** Peers that are dropped as soon as their id is proven. */
  readonly refuses: (peer: string) => boolean
}

/** An address and port as a multiaddr; link-local IPv6 keeps its zone. */
export function toMultiaddr(address: string, port: number): string {
  const [host, zone] = address.split('%')
  if (address.includes(':')) return `${zone === undefined ? '' : `/ip6zone/${zone}`}/ip6/${host}/tcp/${port}`
  return `/ip4/${address}/tcp/${port}`
}

/** A libp2p node, not started, whose gossip only members see. Options follow facts/libp2p.md 1.3–1.5. */
export async function buildLibp2p(options: Libp2pOptions, gate: MemberGate): Promise<Libp2p<Services>> {
  const hosts = options.listenHosts.length > 0 ? options.listenHosts : ['0.0.0.0', '::']
  const socketOptions = { noDelay: true, keepAlive: true, keepAliveInitialDelay: 10_000 }
  const refuses = (peer: PeerId) => options.refuses(peer.toString())
  return createLibp2p<Services>({
    privateKey: options.identity.privateKey,
    start: false,
    addresses: { listen: hosts.map((host) => toMultiaddr(host, options.port)) },
    // A device without IPv6 still runs on IPv4; that something is bound is checked after the start.
    transportManager: { faultTolerance: 1 },
    transports: [tcp({ dialOpts: socketOptions, listenOpts: socketOptions, backlog: 64 })],
    connectionEncrypters: [noise()],
    streamMuxers: [
      yamux({
        streamOptions: {
          initialStreamWindowSize: 262_144,
          maxStreamWindowSize: 262_144,
          maxReadBufferLength: 4 * 2 ** 20,
          maxWriteBufferLength: 8 * 2 ** 20,
        },
      }),
    ],
    connectionManager: {
      // Connections that say nothing must not keep newcomers out: 16 a second from one address, for 5 s until the
      // handshake and 5 s until the hello, leave room for five such addresses. With 64 at once in all and 10 s, a
      // thousand idle connections locked everybody out (test/hostile, idle-connections).
      maxConnections: 512,
      maxIncomingPendingConnections: 384,
      inboundConnectionThreshold: 16,
      inboundUpgradeTimeout: 5_000,
      dialTimeout: 8_000,
      addressDialTimeout: 4_000,
      reconnectRetries: 0,
    },
    // Each ping is a stream of its own, some 1.5 kB: every 5 s they were 40 % of what a device at rest sends.
    connectionMonitor: { enabled: true, pingInterval: 15_000, abortConnectionOnPingFailure: true },
    connectionGater: {
      denyDialMultiaddr: () => false, // loopback and private addresses are what a fleet is made of
      denyInboundEncryptedConnection: refuses,
      denyOutboundEncryptedConnection: refuses,
    },
    services: {
      identify: identify(),
      ping: ping(),
      pubsub: (components) =>
        gossipsub({
          allowPublishToZeroTopicPeers: true,
          globalSignaturePolicy: 'StrictSign',
          maxInboundDataLength: 65_536,
          maxOutboundBufferSize: 2 ** 20,
          allowedTopics: [...options.topics],
          D: 6,
          Dlo: 4,
          Dhi: 12,
          heartbeatInterval: 1_000,
          // Several devices behind one address (tests, NAT) would be thrown out of the mesh (facts/libp2p.md 3).
          scoreParams: { IPColocationFactorWeight: 0 },
        })(withGatedRegistrar(components, gate)),
    },
  })
}
