import { FlotillaError, isFlotillaError, messageOf } from '../protocol/errors.ts'
import { parseRecord, type SignedRecord } from '../protocol/gossip/device-record.ts'
import { RecordBook } from '../protocol/gossip/record-book.ts'
import { admit } from '../protocol/membership/certificate.ts'
import { type FleetNode, type GossipVerdict, type Member, TOPICS } from '../protocol/network/fleet-node.ts'
import type { TrustVersions } from '../protocol/network/hello.ts'
import { METADATA_PROTOCOL, requestBundle, serveBundle } from '../protocol/network/metadata-exchange.ts'
import { answerRecords, askRecords, RECORD_SYNC_PROTOCOL, type SyncSide } from '../protocol/network/record-sync.ts'
import { parseJson, shape } from '../protocol/shape.ts'
import type { EventLog } from './control/event-log.ts'
import type { TrustKeeper } from './store/trust-keeper.ts'

const SYNC_INTERVAL_MS = 15_000
const MAX_PULL_MS = 600_000
const MAX_PULLS = 1_024

/**
 * Carries the news: device records and trust metadata, by gossip when they change and by comparing digests whenever
 * two devices meet and from time to time with a random neighbour. Decides nothing about releases.
 */
export class FleetSync {
  readonly book = new RecordBook()
  /** Somebody told a record of this very device. */
  onOwnRecord: (seq: number) => void = () => {}
  readonly #trust: TrustKeeper
  readonly #log: EventLog
  readonly #onTrust: () => void
  #node: FleetNode | undefined
  /** Peers that are not asked for metadata now, and how often they claimed to be ahead without being so. */
  readonly #pulls = new Map<string, { readonly untilMs: number; readonly idle: number }>()
  #timer: NodeJS.Timeout | undefined

  constructor(trust: TrustKeeper, log: EventLog, onTrust: () => void) {
    this.#trust = trust
    this.#log = log
    this.#onTrust = onTrust
  }

  async start(node: FleetNode): Promise<void> {
    this.#node = node
    await node.handle(METADATA_PROTOCOL, (stream) => serveBundle(stream, (have) => this.#trust.bundleFor(have)))
    await node.handle(RECORD_SYNC_PROTOCOL, (stream, peer) => answerRecords(stream, this.#side(node, peer)))
    const schedule = () => {
      this.#timer = setTimeout(
        () => {
          const members = node.members()
          const member = members[Math.floor(Math.random() * members.length)]
          if (member !== undefined) void this.#syncRecords(member.id)
          // News that got lost on the way: whoever is known to be ahead is asked again.
          const ahead = members.find(({ id, trust }) => this.#isAhead(this.book.get(id)?.record.trust ?? trust))
          if (ahead !== undefined) void this.#pull(ahead.id)
          schedule()
        },
        SYNC_INTERVAL_MS * (0.5 + Math.random()),
      )
      this.#timer.unref()
    }
    schedule()
  }

  stop(): void {
    clearTimeout(this.#timer)
  }

  memberJoined(member: Member): void {
    if (this.#isAhead(member.trust)) void this.#pull(member.id)
    // One side asks; the answer goes both ways. Once more when gossip must have found its way: what was published in
    // between reached nobody.
    if (this.#node === undefined || this.#node.id > member.id) return
    void this.#syncRecords(member.id)
    setTimeout(() => void this.#syncRecords(member.id), 3_000).unref()
  }

  /** Publishes this device's own record. */
  publishRecord(signed: SignedRecord): void {
    this.book.merge(signed, 0, performance.now())
    void this.#node?.publish(TOPICS.records, signed.bytes)
  }

  /** Says that this device has newer trust metadata. */
  announce(): void {
    void this.#node?.publish(TOPICS.announce, Buffer.from(JSON.stringify(this.#trust.versions)))
  }

  gossip(topic: string, data: Uint8Array, from: string, author: string): GossipVerdict {
    try {
      if (topic === TOPICS.records) return this.#takeRecord(data, 0, author) ? 'accept' : 'ignore'
      const versions = parseVersions(data)
      if (!this.#isAhead(versions)) return 'ignore'
      void this.#pull(from)
      // Not passed on before it is verified: this device announces it itself once it holds it.
      return 'ignore'
    } catch (error) {
      this.#log.add('warn', 'gossip-refused', { from, error: messageOf(error) })
      return 'reject'
    }
  }

  /**
   * Pulls over a stream opener: also used before a peer is admitted, since metadata vouches for itself.
   * @returns true when something new and good came
   */
  async refresh(open: (protocol: string) => ReturnType<FleetNode['open']>): Promise<boolean> {
    const bundle = await requestBundle(await open(METADATA_PROTOCOL), this.#trust.versions)
    const { changed, refusal } = await this.#trust.take(bundle)
    if (refusal !== undefined) this.#log.add('warn', 'metadata-refused', { code: refusal.code, error: refusal.message })
    if (!changed) return false
    this.#log.add('info', 'metadata-accepted', { ...this.#trust.versions })
    this.#node?.recheck()
    this.announce()
    this.#onTrust()
    return true
  }

  #isAhead(versions: TrustVersions): boolean {
    return versions.root > this.#trust.versions.root || versions.timestamp > this.#trust.versions.timestamp
  }

  // A peer that claims to be ahead and is not, or hands out what does not verify, is asked ever more rarely: a bundle
  // costs processor time before a signature in it can be checked.
  async #pull(peer: string): Promise<void> {
    const node = this.#node
    const before = this.#pulls.get(peer)
    if (node === undefined || (before?.untilMs ?? 0) > performance.now()) return
    this.#pulls.set(peer, { untilMs: Infinity, idle: before?.idle ?? 0 })
    let gained = false
    try {
      gained = await this.refresh((protocol) => node.open(peer, protocol))
    } catch (error) {
      const isOffence = isFlotillaError(error) && !['UNREACHABLE', 'TIMEOUT'].includes(error.code)
      if (isOffence) this.#log.add('warn', 'metadata-refused', { peer, code: error.code, error: error.message })
      else this.#log.add('debug', 'metadata-pull-failed', { peer, error: messageOf(error) })
    }
    const idle = gained ? 0 : (before?.idle ?? 0) + 1
    this.#pulls.delete(peer)
    this.#pulls.set(peer, { untilMs: performance.now() + Math.min(MAX_PULL_MS, 1_000 * 2 ** idle), idle })
    if (this.#pulls.size > MAX_PULLS) this.#pulls.delete(this.#pulls.keys().next().value ?? '')
  }

  async #syncRecords(peer: string): Promise<void> {
    const node = this.#node
    if (node === undefined || !node.isMember(peer)) return
    try {
      await askRecords(await node.open(peer, RECORD_SYNC_PROTOCOL), this.#side(node, peer))
    } catch (error) {
      this.#log.add('debug', 'record-sync-failed', { peer, error: messageOf(error) })
    }
  }

  #side(node: FleetNode, peer: string): SyncSide {
    return {
      summary: () => this.book.summary(performance.now()),
      digest: () => this.book.digest(performance.now()),
      newerThan: (digest) => this.book.newerThan(digest, performance.now()),
      take: (bytes, ageMs) => {
        try {
          this.#takeRecord(bytes, ageMs)
        } catch (error) {
          // One bad record, the rest is of use.
          this.#log.add('warn', 'record-refused', { from: peer, error: messageOf(error) })
          node.toldBadNews(peer)
        }
      },
      // An operator's laptop hands its release to one device; the fleet does the rest.
      peers: () => {
        const devices = new Set(
          node
            .members()
            .filter((member) => !member.certificate.capabilities.includes('operator'))
            .map((member) => member.id),
        )
        return node.known().filter((peer) => devices.has(peer.id))
      },
      takePeer: (peer) => node.learn(peer),
    }
  }

  /** @param author - who signed the gossip message it came in: only a device itself tells its record there */
  #takeRecord(bytes: Uint8Array, ageMs: number, author?: string): boolean {
    const signed = parseRecord(bytes)
    if (author !== undefined && author !== signed.record.device)
      throw new FlotillaError('FORMAT', `record of ${signed.record.device}: told by ${author}`)
    admit(signed.certificate, signed.record.device, this.#trust.policy)
    if (signed.record.device === this.#node?.id) {
      this.onOwnRecord(signed.record.seq)
      return false
    }
    const fresh = this.book.merge(signed, ageMs, performance.now())
    if (fresh && this.#isAhead(signed.record.trust)) {
      const via = this.#node?.isMember(signed.record.device) === true ? signed.record.device : undefined
      if (via !== undefined) void this.#pull(via)
    }
    return fresh
  }
}

function parseVersions(data: Uint8Array): TrustVersions {
  const json = shape.object(parseJson(data, 'announcement', 1_024), 'announcement')
  return { root: shape.integer(json['root'], 'root', 0), timestamp: shape.integer(json['timestamp'], 'timestamp', 0) }
}
