import { TopicValidatorResult } from '@libp2p/gossipsub'
import type { Connection, PeerId, Stream } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import type { Libp2p } from 'libp2p'
import { dropOldest } from '../bounded-map.ts'
import { type ErrorCode, FlotillaError, isFlotillaError, isOffence, messageOf } from '../errors.ts'
import type { RadioHops } from '../exchange/airtime.ts'
import { admit, type Certificate, parseCertificate, type SignedCertificate } from '../membership/certificate.ts'
import type { FleetPolicy } from '../membership/fleet-policy.ts'
import { Admissions } from './admissions.ts'
import { buildLibp2p, type Services, toMultiaddr } from './build-libp2p.ts'
import { chooseToDrop } from './choose-neighbour.ts'
import { Conduct, type Misconduct } from './conduct.ts'
import { Dialer, type KnownPeer, NEIGHBOURS } from './dialer.ts'
import { Announcer } from './discovery/announcer.ts'
import { FrameStream } from './frame-stream.ts'
import { gateHandler, type MemberGate } from './gated-registrar.ts'
import { encodeHello, type Hello, MAX_HELLO_BYTES, MAX_HELLO_PEERS, parseHello, type TrustVersions } from './hello.ts'
import { HELLO, HELLO_TIMEOUT_MS, hostElsewhere, hostIn, sayHello } from './say-hello.ts'
import { StaticPeers, withoutPeer } from './static-peers.ts'
import type { Identity } from './identity.ts'
import { OpenCount } from './open-count.ts'

/** A peer that has shown a valid certificate on a live connection. */
export type Member = {
  readonly id: string
  readonly certificate: Certificate
  readonly trust: TrustVersions
  readonly address: string
  /** Ends of the connection that are radios. */
  readonly radioHops: RadioHops
}

/** Pass it on, keep it for oneself, or hold it against who told it. */
export type GossipVerdict = 'accept' | 'ignore' | 'reject'

/** What the rest of the program hears from the network. */
export type FleetNodeEvents = {
  readonly member: (member: Member) => void
  readonly memberGone: (id: string) => void
  readonly refused: (id: string, code: string, why: string) => void
  /**
   * A gossip message that came from a member and was signed by `author`; `accept` when it was new and good, so that it
   * is passed on.
   */
  readonly gossip: (topic: string, data: Uint8Array, from: string, author: string) => GossipVerdict
}

export type NeighbourRules = {
  readonly isPreferred: (id: string) => boolean
  readonly isIdle: (id: string) => boolean
}

export type FleetNodeOptions = {
  readonly identity: Identity
  readonly certificate: Uint8Array
  readonly name: string
  readonly fleet: string
  readonly policy: () => FleetPolicy
  readonly trust: () => TrustVersions
  /** A peer that this node cannot admit is ahead in trust metadata: try to get it, then judge again. */
  readonly refreshTrust: (open: (protocol: string) => Promise<Stream>) => Promise<void>
  readonly port: number
  /** Listen and announce only on these interfaces' addresses; on all when empty. */
  readonly listenHosts: readonly string[]
  readonly interfaces: readonly string[]
  readonly discovery: boolean
  readonly staticPeers: readonly string[]
  readonly remembered: readonly KnownPeer[]
  /** Which peers are of more use than others, and which are not in use at the moment; without it all are alike. */
  readonly neighbours?: NeighbourRules
  /** Whether a host is reached by radio; without it everything is a wire. */
  readonly isRadio?: (host: string) => boolean
  readonly events: FleetNodeEvents
}

/** Why a hello may be refused; anything else is FORMAT. */
const HELLO_CODES = ['REVOKED', 'NOT_A_MEMBER', 'BUSY'] as const
/** How a hello ends that nobody refused: the other side is gone, or does not answer. */
const CUT_CODES: readonly ErrorCode[] = ['UNREACHABLE', 'TIMEOUT']
const BAN_MS = 600_000
const GOSSIP_RESULTS = {
  accept: TopicValidatorResult.Accept,
  ignore: TopicValidatorResult.Ignore,
  reject: TopicValidatorResult.Reject,
} as const
const TRIM_MS = 30_000
/** Streams of one protocol that a member may have open at once. */
const MAX_OPEN = 6
/** More neighbours than wanted that are let be: others chose this device. */
const SPARE = 4
/** So many streams of a protocol may be open at once; more than any honest peer has, so that a flood is seen. */
const MAX_STREAMS = 64
/** Gossip topics; anything else is refused by gossipsub itself. */
export const TOPICS = { records: 'flotilla/records/1', announce: 'flotilla/announce/1' } as const

/**
 * libp2p as Flotilla uses it: TCP, Noise, Yamux, gossipsub behind a gate that opens only to members of the fleet.
 * Options follow facts/libp2p.md 1.3–1.5: small windows, no trust in pauses, own dialling, no colocation score.
 */
export class FleetNode {
  readonly #options: FleetNodeOptions
  readonly #node: Libp2p<Services>
  readonly #members = new Map<string, Member>()
  readonly #certificates = new Map<string, SignedCertificate>()
  readonly #banned = new Map<string, number>()
  readonly #admissions = new Admissions(HELLO_TIMEOUT_MS)
  /** Why a connection was turned away, by whichever side. */
  readonly #refusals = new WeakMap<Connection, ErrorCode>()
  readonly #memberListeners: readonly ((peer: PeerId, connection: Connection) => void)[]
  readonly #dialer: Dialer
  readonly #conduct = new Conduct()
  readonly #announcer: Announcer | undefined
  readonly #joinedMs = new Map<string, number>()
  /** Streams that members have open now, by protocol and peer. */
  readonly #open = new OpenCount(MAX_OPEN)
  readonly #ports = new Map<4 | 6, number>()
  readonly #static: StaticPeers
  #trimMs = performance.now() + TRIM_MS
  #timer: NodeJS.Timeout | undefined

  private constructor(
    options: FleetNodeOptions,
    node: Libp2p<Services>,
    memberListeners: readonly ((peer: PeerId, connection: Connection) => void)[],
  ) {
    this.#options = options
    this.#memberListeners = memberListeners
    this.#node = node
    this.#dialer = new Dialer({
      selfId: options.identity.id,
      dial: (id, addresses) => this.#dial(id, addresses),
      isConnected: (id) => this.#members.has(id),
      neighbours: () => this.neighbours().length,
      isPreferred: (id) => options.neighbours?.isPreferred(id) ?? false,
      random: Math.random,
      nowMs: () => performance.now(),
    })
    this.#static = new StaticPeers(options.staticPeers, (address) =>
      node.dial(multiaddr(address), { signal: AbortSignal.timeout(10_000) }),
    )
    this.#announcer = options.discovery
      ? new Announcer({
          id: options.identity.id,
          name: options.name,
          fleet: options.fleet,
          announce: true,
          port: (family) => this.port(family),
          interfaces: options.interfaces,
          onHeard: (ad) =>
            this.#dialer.learn(
              ad.id,
              ad.addresses.map((address) => toMultiaddr(address, ad.port)),
              true,
            ),
          random: Math.random,
        })
      : undefined
  }

  /** Builds and starts a node. @throws FlotillaError UNREACHABLE when no address can be listened on */
  static async start(options: FleetNodeOptions): Promise<FleetNode> {
    const started: { node?: FleetNode } = {}
    const listeners: ((peer: PeerId, connection: Connection) => void)[] = []
    const gate: MemberGate = {
      isMember: (peer) => started.node?.isMember(peer) ?? false,
      waitForMember: (peer) => started.node?.waitForMember(peer) ?? Promise.resolve(false),
      onMember: (listener) => listeners.push(listener),
    }
    const refuses = (peer: string) => started.node?.isBanned(peer) === true || options.policy().revoked.includes(peer)
    started.node = new FleetNode(
      options,
      await buildLibp2p({ ...options, topics: Object.values(TOPICS), refuses }, gate),
      listeners,
    )
    await started.node.#start()
    return started.node
  }

  async #start(): Promise<void> {
    const node = this.#node
    await node.handle(HELLO, (stream, connection) => this.#answerHello(stream, connection), { maxInboundStreams: 4 })
    node.addEventListener('connection:open', (event) => void this.#connectionOpened(event.detail))
    node.addEventListener('connection:close', (event) => this.#admissions.decided(event.detail.remotePeer.toString()))
    node.addEventListener('peer:disconnect', (event) => this.#disconnected(event.detail.toString()))
    for (const topic of Object.values(TOPICS)) {
      node.services.pubsub.topicValidators.set(topic, (from, message) => {
        const author = message.type === 'signed' ? message.from.toString() : ''
        return GOSSIP_RESULTS[this.#judgeGossip(topic, message.data, from.toString(), author)]
      })
    }
    await node.start()
    for (const topic of Object.values(TOPICS)) node.services.pubsub.subscribe(topic)
    if (node.getMultiaddrs().length === 0 && this.port(4) === 0 && this.port(6) === 0) {
      await node.stop()
      throw new FlotillaError(
        'UNREACHABLE',
        `listen on port ${this.#options.port}: no address could be bound; is it in use?`,
      )
    }
    for (const peer of this.#options.remembered) this.#dialer.learn(peer.id, peer.addresses, false)
    this.#announcer?.start()
    this.#timer = setInterval(() => this.#tick(), 500)
    this.#tick()
  }

  #judgeGossip(topic: string, data: Uint8Array, from: string, author: string): GossipVerdict {
    if (!this.isMember(from)) return 'reject'
    const told = this.#conduct.told(from, author, performance.now())
    if (told === 'ignore') return 'ignore'
    if (this.#banFor(from, told)) return 'reject'
    const verdict = this.#options.events.gossip(topic, data, from, author)
    if (verdict === 'reject') this.toldBadNews(from)
    return verdict
  }

  /** The member passed on what the policy of this device refuses; it may know another policy. */
  toldStrangeNews(from: string): void {
    this.#banFor(from, this.#conduct.toldStrangeNews(from, performance.now()))
  }

  /** The member passed on something that does not verify: too much of it, and it is banned. */
  toldBadNews(from: string): void {
    this.#banFor(from, this.#conduct.toldBadNews(from, performance.now()))
  }

  #banFor(peer: string, misconduct: Misconduct | undefined): boolean {
    if (misconduct !== undefined) this.ban(peer, misconduct.code, misconduct.why)
    return misconduct !== undefined
  }

  /** Members but for operators, who come and go as they like. */
  neighbours(): readonly Member[] {
    return [...this.#members.values()].filter(({ certificate }) => !certificate.capabilities.includes('operator'))
  }

  /** Too many neighbours: one that is of no use now goes, so that the fleet stays mixed. */
  #trim(): void {
    const nowMs = performance.now()
    if (nowMs < this.#trimMs) return
    this.#trimMs = nowMs + TRIM_MS * (0.5 + Math.random())
    const neighbours = this.neighbours()
    if (neighbours.length <= NEIGHBOURS.wanted + SPARE) return
    const rules = this.#options.neighbours
    const known = neighbours.map(({ id, address }) => ({
      id,
      preferred: rules?.isPreferred(id) ?? false,
      idle: rules?.isIdle(id) ?? true,
      pinned: this.#static.isOne({ id, address }),
      connectedMs: nowMs - (this.#joinedMs.get(id) ?? nowMs),
    }))
    const dropped = chooseToDrop(known, NEIGHBOURS.wanted / 2, Math.random)
    if (dropped !== undefined) this.#hangUp(dropped)
  }

  /** The peer has what nobody here has: it is dialled however many neighbours there are. False when no address is known. */
  seek(id: string): boolean {
    return this.#dialer.seek(id)
  }

  #tick(): void {
    this.#dialer.tick()
    this.#trim()
    this.#static.tick(this.members(), performance.now())
  }

  get id(): string {
    return this.#options.identity.id
  }

  /** The TCP port it listens on, 0 when it does not listen in that family. */
  port(family: 4 | 6): number {
    const known = this.#ports.get(family)
    if (known !== undefined) return known
    for (const address of this.#listenAddresses()) {
      const match = new RegExp(`^/ip${family}/.*/tcp/(\\d+)`).exec(address)
      if (match?.[1] === undefined) continue
      this.#ports.set(family, Number(match[1])) // asked with every packet heard, and looking costs 7 % of joining
      return Number(match[1])
    }
    return 0
  }

  #listenAddresses(): string[] {
    return this.#node.getMultiaddrs().map((address) => address.toString())
  }

  /** Addresses worth telling others: no loopback unless that is all there is, no peer id at the end. */
  addresses(): readonly string[] {
    const all = this.#listenAddresses().map(withoutPeer)
    const outside = all.filter((address) => !/^\/ip4\/127\.|^\/ip6\/::1\//.test(address))
    return (outside.length > 0 ? outside : all).slice(0, 8)
  }

  /** The address at which a member was reached, without port; undefined when it is gone. */
  hostOf(id: string): string | undefined {
    return hostIn(this.#members.get(id)?.address ?? '')
  }

  members(): readonly Member[] {
    return [...this.#members.values()]
  }

  /** Live connections to a peer; one unless both sides dialled at the same moment. */
  connectionCount(id: string): number {
    return this.#node.getConnections(peerIdFromString(id)).length
  }

  isMember(id: string): boolean {
    return this.#members.has(id)
  }

  /** True once the peer is a member, false when its hello failed or took too long. */
  waitForMember(id: string): Promise<boolean> {
    return this.#admissions.waitForPeer(id, () => this.isMember(id))
  }

  /** Addresses of a peer that was heard of in another way. */
  learn(peer: KnownPeer): void {
    this.#dialer.learn(peer.id, peer.addresses, false)
  }

  known(): readonly KnownPeer[] {
    return this.#dialer.known()
  }

  /** Dials an address or a known device and waits until it is a member. @throws FlotillaError UNREACHABLE, NOT_A_MEMBER */
  async reach(address: string, timeoutMs = 15_000): Promise<Member> {
    const signal = AbortSignal.timeout(timeoutMs)
    let connection: Connection
    try {
      connection = await this.#node.dial(multiaddr(address), { signal })
    } catch (cause) {
      throw new FlotillaError('UNREACHABLE', `connect to ${address}: ${messageOf(cause)}`, { cause })
    }
    const id = connection.remotePeer.toString()
    if (await this.waitForMember(id)) {
      const member = this.#members.get(id)
      if (member !== undefined) return member
    }
    const why = this.#refusals.get(connection)
    if (why === undefined) throw new FlotillaError('UNREACHABLE', `connect to ${address}: it did not finish its hello`)
    throw new FlotillaError(
      'NOT_A_MEMBER',
      `connect to ${address}: it did not take this operator's certificate, or showed none that this fleet accepts (${why})`,
    )
  }

  /** Opens a stream to a member. @throws FlotillaError UNREACHABLE */
  async open(id: string, protocol: string): Promise<Stream> {
    if (!this.#members.has(id)) throw new FlotillaError('UNREACHABLE', `open ${protocol}: ${id} is not connected`)
    return this.#openRaw(id, protocol)
  }

  async #openRaw(id: string, protocol: string): Promise<Stream> {
    try {
      return await this.#node.dialProtocol(peerIdFromString(id), protocol, { signal: AbortSignal.timeout(10_000) })
    } catch (cause) {
      throw new FlotillaError('UNREACHABLE', `open ${protocol} to ${id}: ${messageOf(cause)}`, { cause })
    }
  }

  /** Serves a protocol to members. One that opens streams without end is banned. */
  async handle(protocol: string, handler: (stream: Stream, peer: string) => void | Promise<void>): Promise<void> {
    const gate: MemberGate = {
      isMember: (peer) => this.isMember(peer),
      waitForMember: (peer) => this.waitForMember(peer),
      onMember: () => {},
    }
    await this.#node.handle(
      protocol,
      gateHandler(async (stream, connection) => {
        const peer = connection.remotePeer.toString()
        if (this.#banFor(peer, this.#conduct.opened(peer, performance.now()))) return
        // Each may hold a frame that is being read: many at once would be memory that nobody asked for.
        const closed = (await this.#admissions.waitForConnection(connection))
          ? this.#open.take(`${protocol} ${peer}`)
          : undefined
        if (closed === undefined) return stream.abort(new Error('BUSY'))
        stream.addEventListener('close', closed)
        return handler(stream, peer)
      }, gate),
      { maxInboundStreams: MAX_STREAMS, maxOutboundStreams: MAX_STREAMS },
    )
  }

  async publish(topic: string, data: Uint8Array): Promise<void> {
    try {
      await this.#node.services.pubsub.publish(topic, data)
    } catch (error) {
      // Gossip is a wake-up call: digests on the next connection carry the same. Only a stopped node ends up here.
      if (this.#node.status === 'started') this.#options.events.refused(this.id, 'BUSY', messageOf(error))
    }
  }

  /** Drops a peer and refuses it for ten minutes. */
  ban(id: string, code: string, why: string): void {
    if (this.isBanned(id)) return
    this.#banned.set(id, performance.now() + BAN_MS)
    dropOldest(this.#banned, 1_000)
    this.#options.events.refused(id, code, why)
    this.#hangUp(id)
  }

  isBanned(id: string): boolean {
    return (this.#banned.get(id) ?? 0) > performance.now()
  }

  /** Judges all members again after the policy changed. */
  recheck(): void {
    for (const [id, signed] of [...this.#certificates]) {
      try {
        admit(signed, id, this.#options.policy())
      } catch (error) {
        this.#options.events.refused(id, isFlotillaError(error) ? error.code : 'NOT_A_MEMBER', messageOf(error))
        this.#hangUp(id)
      }
    }
  }

  #hangUp(id: string): void {
    this.#disconnected(id)
    // A polite close would let it go on sending meanwhile.
    for (const connection of this.#node.getConnections(peerIdFromString(id))) connection.abort(new Error('refused'))
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer)
    this.#announcer?.stop()
    await this.#node.stop()
  }

  async #dial(id: string, addresses: readonly string[]): Promise<void> {
    if (this.isBanned(id)) throw new FlotillaError('UNREACHABLE', 'banned')
    await this.#node.dial(
      addresses.map((address) => multiaddr(`${address}/p2p/${id}`)),
      { signal: AbortSignal.timeout(8_000) },
    )
    if (!(await this.waitForMember(id))) throw new FlotillaError('NOT_A_MEMBER', id)
  }

  async #connectionOpened(connection: Connection): Promise<void> {
    const id = connection.remotePeer.toString()
    if (this.isBanned(id)) return connection.abort(new Error('banned'))
    if (connection.direction === 'inbound') {
      if (!(await this.#admissions.waitForConnection(connection))) connection.abort(new Error('no hello'))
      return
    }
    try {
      const hello = await sayHello(connection, this.#hello(connection))
      if (hello.type === 'refused') {
        for (const peer of hello.peers) this.learn(peer)
        if (hello.code === 'BUSY') this.#static.turnedAwayBy(connection, performance.now())
        throw new FlotillaError(hello.code, `${id} refused this device`)
      }
      await this.#admitOrRefresh(hello, connection)
    } catch (error) {
      if (isOffence(error)) this.#options.events.refused(id, error.code, error.message)
      if (isFlotillaError(error) && !CUT_CODES.includes(error.code)) this.#refusals.set(connection, error.code)
      connection.abort(error instanceof Error ? error : new Error(String(error)))
      this.#admissions.decided(id)
    }
  }

  // A peer with a certificate of a CA that this device has not heard of may be a stranger, or this device is behind.
  async #admitOrRefresh(hello: Extract<Hello, { type: 'hello' }>, connection: Connection): Promise<void> {
    try {
      this.#admit(hello, connection)
    } catch (error) {
      const own = this.#options.trust()
      const behind = hello.trust.root > own.root || hello.trust.timestamp > own.timestamp
      if (!behind || !isFlotillaError(error, 'NOT_A_MEMBER')) throw error
      await this.#options.refreshTrust((protocol) => this.#openRaw(connection.remotePeer.toString(), protocol))
      this.#admit(hello, connection)
    }
  }

  async #answerHello(stream: Stream, connection: Connection): Promise<void> {
    const id = connection.remotePeer.toString()
    const frames = new FrameStream(stream, { maxFrameBytes: () => MAX_HELLO_BYTES })
    try {
      const hello = parseHello(await frames.next(HELLO_TIMEOUT_MS))
      if (hello.type === 'refused') throw new FlotillaError('FORMAT', 'a hello starts with a certificate')
      if (this.isBanned(id)) throw new FlotillaError('NOT_A_MEMBER', 'banned')
      const signed = parseCertificate(hello.certificate)
      const { capabilities } = admit(signed, id, this.#options.policy())
      await this.#refuseTwice(id, connection)
      const isFull = this.neighbours().length >= NEIGHBOURS.most && !this.#members.has(id)
      if (isFull && !capabilities.includes('operator')) throw new FlotillaError('BUSY', 'neighbours enough')
      frames.send(encodeHello(this.#hello(connection)))
      this.#join(id, signed, hello, connection)
      await frames.close()
    } catch (error) {
      const code = HELLO_CODES.find((known) => isFlotillaError(error, known)) ?? 'FORMAT'
      // Who hung up in the middle was not refused: an honest device that is being started again does so.
      const isCut = isFlotillaError(error, 'UNREACHABLE')
      if (code !== 'BUSY' && !isCut) this.#options.events.refused(id, code, messageOf(error))
      // Who is turned away for want of room learns where others are: behind one base station there is no other way.
      const peers = code === 'BUSY' ? this.#someNeighbours() : []
      frames.send(encodeHello({ type: 'refused', code, peers }))
      await frames.close()
      setTimeout(() => {
        connection.abort(new Error(code)) // after the code has left
        this.#admissions.decided(id)
      }, 200).unref()
    }
  }

  /** @throws FlotillaError BUSY when the peer is connected from another host, and answers there */
  async #refuseTwice(id: string, connection: Connection): Promise<void> {
    if (!this.#members.has(id)) return
    const elsewhere = await hostElsewhere(connection, this.#node.getConnections(peerIdFromString(id)))
    if (elsewhere === undefined) return
    const why = `connected from ${hostIn(connection.remoteAddr.toString())} and ${elsewhere} at once`
    this.#options.events.refused(id, 'TWICE', `${why}: a copy of its key, or a device with two interfaces`)
    throw new FlotillaError('BUSY', 'connected from elsewhere already')
  }

  #someNeighbours(): readonly KnownPeer[] {
    const ids = new Set(this.neighbours().map(({ id }) => id))
    const known = this.#dialer.known().filter(({ id, addresses }) => ids.has(id) && addresses.length > 0)
    return known
      .sort(() => Math.random() - 0.5)
      .slice(0, MAX_HELLO_PEERS)
      .map(({ id, addresses }) => ({ id, addresses: addresses.slice(0, 2) }))
  }

  #hello(connection: Connection): Hello {
    return {
      type: 'hello',
      certificate: this.#options.certificate,
      trust: this.#options.trust(),
      addresses: this.addresses(),
      radio: this.#isRadio(connection),
    }
  }

  #isRadio({ remoteAddr }: Connection): boolean {
    return this.#options.isRadio?.(hostIn(remoteAddr.toString()) ?? '') ?? false
  }

  #admit(hello: Extract<Hello, { type: 'hello' }>, connection: Connection): void {
    const id = connection.remotePeer.toString()
    const signed = parseCertificate(hello.certificate)
    admit(signed, id, this.#options.policy())
    this.#join(id, signed, hello, connection)
  }

  #join(id: string, signed: SignedCertificate, hello: Extract<Hello, { type: 'hello' }>, connection: Connection): void {
    const { certificate } = signed
    this.#certificates.set(id, signed)
    const remote = withoutPeer(connection.remoteAddr.toString())
    const observed = /^\/(ip4|ip6)\/([^/]+)\//.exec(remote)
    // Where it says it listens, and the same ports at the address it was seen from.
    const addresses = hello.addresses.flatMap((address) => {
      const port = /\/tcp\/(\d+)$/.exec(address)?.[1]
      const sameFamily = observed !== null && address.startsWith(`/${observed[1]}/`)
      return sameFamily && port !== undefined ? [`/${observed[1]}/${observed[2]}/tcp/${port}`, address] : [address]
    })
    this.#dialer.learn(id, connection.direction === 'outbound' ? [remote, ...addresses] : addresses, true)
    const known = this.#members.get(id)
    const ends = [this.#isRadio(connection), hello.radio]
    const radioHops = ends.every(Boolean) ? 2 : ends.some(Boolean) ? 1 : 0
    const member: Member = { id, certificate, trust: hello.trust, address: remote, radioHops }
    this.#admissions.admit(connection)
    if (known === undefined) this.#joinedMs.set(id, performance.now())
    this.#members.set(id, member)
    this.#admissions.decided(id)
    for (const listener of this.#memberListeners) listener(connection.remotePeer, connection)
    if (known === undefined) this.#options.events.member(member)
  }

  #disconnected(id: string): void {
    this.#certificates.delete(id)
    const wasMember = this.#members.delete(id)
    this.#admissions.decided(id)
    if (!wasMember) {
      // Throw-away identities must not fill the peer store.
      void this.#node.peerStore.delete(peerIdFromString(id)).catch(() => {})
      return
    }
    this.#joinedMs.delete(id)
    this.#dialer.lost(id)
    this.#options.events.memberGone(id)
  }
}
