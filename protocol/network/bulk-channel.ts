import { randomBytes } from 'node:crypto'
import { createServer, type Server, type Socket } from 'node:net'
import { connect, createSecureContext, type SecureContextOptions, TLSSocket } from 'node:tls'
import { FlotillaError } from '../errors.ts'
import { BULK_ID_BYTES } from '../exchange/messages.ts'
import { OpenCount } from './open-count.ts'

/** What the answering side hands out over the Noise stream: a one-time name and key for one bulk connection. */
export type BulkSession = { readonly port: number; readonly id: Uint8Array; readonly key: Uint8Array }

const BULK_KEY_BYTES = 32

/**
 * TLS 1.3 with an external pre-shared key (RFC 8446, 2.2): as well authenticated and encrypted as the Noise stream the
 * key came over, with forward secrecy by X25519, and done by OpenSSL in large pieces. Measured per GiB on one core:
 * 0.5 s sending and 1.0 s receiving, where a Noise and Yamux stream takes 3 and 4.5.
 */
const TLS: SecureContextOptions & { readonly ecdhCurve: string } = {
  ciphers: 'TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256',
  minVersion: 'TLSv1.3',
  maxVersion: 'TLSv1.3',
  ecdhCurve: 'X25519',
}
const HANDSHAKE_MS = 5_000
const SESSION_MS = 15_000
const MAX_SESSIONS = 256
const MAX_CONNECTIONS = 256
/** Connections from one address that have not proven anything yet. */
const MAX_UNPROVEN = 16
/** The longest question: a bitmap of the longest index. */
export const MAX_QUESTION_BYTES = 65_536
/** DSCP CS1: the background class, also on Wi-Fi (facts/distribution.md 3.8). */
const BACKGROUND_TOS = 0x20
/** AES-GCM of TLS 1.3 is specified for some 388 GiB under one key; Node cannot renew it in place. */
const MAX_BYTES = 256 * 2 ** 30

/** Chunks in one direction, questions about them in the other. Frames are `length u32 LE | body`, as on the Noise streams. */
export class BulkChannel {
  readonly #socket: TLSSocket
  readonly #maxFrameBytes: number
  readonly #head = Buffer.alloc(4)
  #headBytes = 0
  #frame: Buffer | undefined
  #frameBytes = 0
  #moved = 0
  onFrame: (frame: Uint8Array) => void = () => {}
  /** Called once, however it ended. A cut looks like an end: what was asked for and did not come is lost. */
  onClose: () => void = () => {}

  /** @param maxFrameBytes - longest frame that is read */
  constructor(socket: TLSSocket, maxFrameBytes: number) {
    this.#socket = socket
    this.#maxFrameBytes = maxFrameBytes
    socket.setNoDelay(true)
    socket.setKeepAlive(true, 10_000)
    try {
      if ('setTypeOfService' in socket) socket.setTypeOfService(BACKGROUND_TOS) // Node 24 and newer
    } catch {
      // a system that does not let it: the mark is a courtesy
    }
    socket.on('error', () => socket.destroy())
    socket.on('end', () => socket.destroy())
    socket.once('close', () => this.onClose())
  }

  get closed(): boolean {
    return this.#socket.destroyed
  }

  /** Takes bytes as they come; a frame over the limit ends the channel. */
  take(bytes: Buffer): void {
    this.#moved += bytes.length
    if (this.#moved > MAX_BYTES) return this.close()
    for (let at = 0; at < bytes.length && !this.closed; ) {
      if (this.#frame === undefined) {
        const use = Math.min(4 - this.#headBytes, bytes.length - at)
        bytes.copy(this.#head, this.#headBytes, at, at + use)
        this.#headBytes += use
        at += use
        if (this.#headBytes < 4) return
        const length = this.#head.readUInt32LE(0)
        if (length === 0 || length > this.#maxFrameBytes) return this.close()
        this.#headBytes = 0
        this.#frame = Buffer.allocUnsafeSlow(length)
        this.#frameBytes = 0
        continue
      }
      const use = Math.min(this.#frame.length - this.#frameBytes, bytes.length - at)
      bytes.copy(this.#frame, this.#frameBytes, at, at + use)
      this.#frameBytes += use
      at += use
      if (this.#frameBytes < this.#frame.length) return
      const frame = this.#frame
      this.#frame = undefined
      this.onFrame(frame)
    }
  }

  /** Sends one frame of two parts without joining them. False means `await drained()` first. */
  send(head: Uint8Array, payload: Uint8Array): boolean {
    if (this.closed) return true
    this.#moved += head.length + payload.length
    const length = Buffer.allocUnsafe(4 + head.length)
    length.writeUInt32LE(head.length + payload.length, 0)
    length.set(head, 4)
    this.#socket.cork()
    let room = this.#socket.write(length)
    if (payload.length > 0) room = this.#socket.write(payload)
    this.#socket.uncork()
    if (this.#moved > MAX_BYTES) this.#socket.end()
    return room
  }

  /** Resolves when the socket takes more, or is closed. */
  drained(): Promise<void> {
    if (this.closed || !this.#socket.writableNeedDrain) return Promise.resolve()
    return new Promise((resolve) => {
      const done = () => {
        this.#socket.off('drain', done)
        this.#socket.off('close', done)
        resolve()
      }
      this.#socket.on('drain', done)
      this.#socket.on('close', done)
    })
  }

  close(): void {
    this.#socket.destroy()
  }
}

type Session = {
  readonly key: Uint8Array
  readonly onChannel: (channel: BulkChannel) => void
  readonly untilMs: number
}

/**
 * Listens for bulk connections. Whoever does not name a session that was handed out in the last seconds, and prove that
 * it has its key, gets no further than the handshake.
 */
export class BulkListener {
  readonly #sessions = new Map<string, Session>()
  readonly #servers: readonly Server[]
  readonly #sockets = new Set<Socket>()
  readonly #unproven = new OpenCount(MAX_UNPROVEN)
  readonly #context = createSecureContext(TLS)
  #port = 0

  private constructor(count: number) {
    this.#servers = Array.from({ length: count }, () =>
      createServer({ noDelay: true }, (socket) => this.#accept(socket)).unref(),
    )
    for (const server of this.#servers) server.maxConnections = MAX_CONNECTIONS
  }

  /**
   * Listens on the given addresses, or on all, at `port`; where that is taken, at one that the system chooses.
   * @throws FlotillaError UNREACHABLE when nothing can be bound
   */
  static async start(hosts: readonly string[], port: number): Promise<BulkListener> {
    const addresses = hosts.length > 0 ? hosts : ['::']
    const listener = new BulkListener(addresses.length)
    for (const [at, server] of listener.#servers.entries()) {
      const host = addresses[at] ?? '::'
      const wanted = listener.#port === 0 ? port : listener.#port
      listener.#port = await listen(server, host, wanted)
        .catch(() => listen(server, host, 0))
        .catch(() => listen(server, '0.0.0.0', 0)) // a system without IPv6
        .catch((cause: unknown) => {
          listener.close()
          throw new FlotillaError('UNREACHABLE', `listen for bulk data on ${host}: no port can be bound`, { cause })
        })
    }
    return listener
  }

  /** Hands out a session. `onChannel` is called when the peer has connected with it; it lapses after 15 s. */
  offer(onChannel: (channel: BulkChannel) => void): BulkSession {
    const nowMs = performance.now()
    for (const [id, session] of this.#sessions) if (session.untilMs < nowMs) this.#sessions.delete(id)
    if (this.#sessions.size >= MAX_SESSIONS) this.#sessions.delete(this.#sessions.keys().next().value ?? '')
    const id = randomBytes(BULK_ID_BYTES)
    const key = randomBytes(BULK_KEY_BYTES)
    this.#sessions.set(id.toString('hex'), { key, onChannel, untilMs: nowMs + SESSION_MS })
    return { port: this.#port, id, key }
  }

  close(): void {
    for (const server of this.#servers) server.close()
    for (const socket of this.#sockets) socket.destroy()
  }

  #accept(raw: Socket): void {
    const proven = this.#unproven.take(raw.remoteAddress ?? '')
    if (proven === undefined) {
      raw.destroy()
      return
    }
    raw.once('close', proven)
    this.#sockets.add(raw)
    raw.once('close', () => this.#sockets.delete(raw))
    raw.on('error', () => raw.destroy())
    let session: Session | undefined
    // Node's own types leave pskCallback and onread out where they work.
    const options = {
      isServer: true,
      secureContext: this.#context,
      pskCallback: (_socket: unknown, identity: string) => {
        session = this.#sessions.get(identity)
        this.#sessions.delete(identity) // once only
        return session !== undefined && session.untilMs >= performance.now() ? session.key : null
      },
    }
    const socket = new TLSSocket(raw, options)
    const timer = setTimeout(() => socket.destroy(), HANDSHAKE_MS)
    socket.on('error', () => socket.destroy())
    socket.once('close', () => clearTimeout(timer))
    socket.once('secure', () => {
      clearTimeout(timer)
      if (session === undefined) {
        socket.destroy()
        return
      }
      proven()
      const channel = new BulkChannel(socket, MAX_QUESTION_BYTES)
      socket.on('data', (bytes: Buffer) => channel.take(bytes))
      session.onChannel(channel)
    })
  }
}

function listen(server: Server, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      const address = server.address()
      resolve(typeof address === 'object' && address !== null ? address.port : 0)
    })
  })
}

const clientContext = createSecureContext(TLS)

/**
 * Connects to the peer's listener and receives on the connection.
 * @param maxFrameBytes - longest frame that is read
 * @throws FlotillaError UNREACHABLE
 */
export function dialBulk(host: string, session: BulkSession, maxFrameBytes: number): Promise<BulkChannel> {
  return new Promise((resolve, reject) => {
    let channel: BulkChannel | undefined
    const options = {
      host,
      port: session.port,
      secureContext: clientContext,
      pskCallback: () => ({ identity: Buffer.from(session.id).toString('hex'), psk: session.key }),
      // The key says who it is; there are no certificates.
      checkServerIdentity: () => undefined,
      // Reads into one buffer again and again: a third of the cost of an event with a fresh buffer for each 16 KiB.
      onread: {
        buffer: Buffer.allocUnsafeSlow(65_536),
        callback: (bytesRead: number, buffer: Uint8Array) => {
          channel?.take(Buffer.from(buffer.buffer, buffer.byteOffset, bytesRead))
          return true
        },
      },
    }
    const socket = connect(options)
    const fail = (cause: Error) => {
      socket.destroy()
      reject(
        new FlotillaError('UNREACHABLE', `bulk connection to ${host}:${session.port}: ${cause.message}`, { cause }),
      )
    }
    const timer = setTimeout(() => fail(new Error('no handshake in time')), HANDSHAKE_MS)
    socket.once('error', fail)
    socket.once('close', () => clearTimeout(timer))
    socket.once('secureConnect', () => {
      clearTimeout(timer)
      socket.off('error', fail)
      channel = new BulkChannel(socket, maxFrameBytes)
      resolve(channel)
    })
  })
}
