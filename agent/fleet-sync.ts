import { dropOldest } from '../protocol/bounded-map.ts'
import { FlotillaError, isOffence, messageOf } from '../protocol/errors.ts'
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
const STRANGER_MS = 5_000
const MAX_REFUSED = 4_096

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
  /** Newest sequence of each device whose record the policy refuses: judged once, however often it is told. */
  readonly #refused = new Map<string, number>()
  #strangerMs = 0
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
          const claims = members.map(({ id, trust }) => ({ id, trust: this.book.get(id)?.record.trust ?? trust }))
          const ahead = claims.filter(({ id, trust }) => this.#isAhead(trust) && this.#mayPull(id))
          const chosen = ahead[Math.floor(Math.random() * ahead.length)]
          if (chosen !== undefined) void this.#pull(chosen.id, chosen.trust)
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
    if (this.#isAhead(member.trust)) void this.#pull(member.id, member.trust)
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
      if (topic === TOPICS.records) return this.#takeRecord(data, 0, from, author) ? 'accept' : 'ignore'
      const versions = parseVersions(data)
      if (!this.#isAhead(versions)) return 'ignore'
      void this.#pull(from, versions)
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
    this.book.retain((signed) => this.#isAdmitted(signed))
    this.#refused.clear()
    this.#node?.recheck()
    this.announce()
    this.#onTrust()
    return true
  }

  #isAhead(versions: TrustVersions): boolean {
    return versions.root > this.#trust.versions.root || versions.timestamp > this.#trust.versions.timestamp
  }

  /** Pulls from a peer that no hello has admitted: anybody can claim to be ahead, so one at a time and not often. */
  async refreshFromStranger(open: (protocol: string) => ReturnType<FleetNode['open']>): Promise<void> {
    if (performance.now() < this.#strangerMs) return
    this.#strangerMs = performance.now() + STRANGER_MS
    await this.refresh(open)
  }

  #mayPull(peer: string): boolean {
    return (this.#pulls.get(peer)?.untilMs ?? 0) <= performance.now()
  }

  // A peer that claims to be ahead and brings nothing is asked ever more rarely: a bundle costs processor time before a
  // signature in it can be checked. One that is out of reach, or whose news came from another meanwhile, did not lie.
  async #pull(peer: string, claimed: TrustVersions): Promise<void> {
    const node = this.#node
    const before = this.#pulls.get(peer)
    if (node === undefined || !this.#mayPull(peer)) return
    this.#pulls.set(peer, { untilMs: Infinity, idle: before?.idle ?? 0 })
    let idle = before?.idle ?? 0
    try {
      const gained = await this.refresh((protocol) => node.open(peer, protocol))
      idle = gained ? 0 : this.#isAhead(claimed) ? idle + 1 : idle
    } catch (error) {
      if (isOffence(error)) {
        idle += 1
        this.#log.add('warn', 'metadata-refused', { peer, code: error.code, error: error.message })
      } else this.#log.add('debug', 'metadata-pull-failed', { peer, error: messageOf(error) })
    }
    this.#pulls.delete(peer)
    this.#pulls.set(peer, { untilMs: performance.now() + Math.min(MAX_PULL_MS, 1_000 * 2 ** idle), idle })
    dropOldest(this.#pulls, MAX_PULLS)
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

  #isAdmitted(signed: SignedRecord): boolean {
    try {
      admit(signed.certificate, signed.record.device, this.#trust.policy)
      return true
    } catch {
      return false // revoked, of an earlier epoch, or of a CA that this device has not heard of
    }
  }

  #side(node: FleetNode, peer: string): SyncSide {
    return {
      summary: () => this.book.summary(performance.now()),
      digest: () => this.book.digest(performance.now()),
      newerThan: (digest) => this.book.newerThan(digest, performance.now()),
      take: (bytes, ageMs) => {
        try {
          this.#takeRecord(bytes, ageMs, peer)
        } catch (error) {
          // One bad record, the rest is of use.
          this.#log.add('warn', 'record-refused', { from: peer, error: messageOf(error) })
          node.toldBadNews(peer)
        }
      },
      // An operator's laptop hands its release to one device; the fleet does the rest.
      peers: () => {
        const devices = new Set(node.neighbours().map(({ id }) => id))
        return node.known().filter((peer) => devices.has(peer.id))
      },
      takePeer: (peer) => node.learn(peer),
    }
  }

  /**
   * @param from - who told it
   * @param author - who signed the gossip message it came in: only a device itself tells its record there
   * @throws FlotillaError for a record that cannot be true; one that only the policy refuses is left out
   */
  #takeRecord(bytes: Uint8Array, ageMs: number, from: string, author?: string): boolean {
    const signed = parseRecord(bytes)
    const { device, seq } = signed.record
    if (author !== undefined && author !== device)
      throw new FlotillaError('FORMAT', `record of ${device}: told by ${author}`)
    if (!this.#isAdmitted(signed)) {
      if ((this.#refused.get(device) ?? -1) >= seq) return false
      this.#refused.set(device, seq)
      dropOldest(this.#refused, MAX_REFUSED)
      this.#node?.toldStrangeNews(from)
      return false
    }
    if (signed.record.device === this.#node?.id) {
      this.onOwnRecord(signed.record.seq)
      return false
    }
    const fresh = this.book.merge(signed, ageMs, performance.now())
    if (fresh && this.#isAhead(signed.record.trust)) {
      const via = this.#node?.isMember(signed.record.device) === true ? signed.record.device : undefined
      if (via !== undefined) void this.#pull(via, signed.record.trust)
    }
    return fresh
  }
}

function parseVersions(data: Uint8Array): TrustVersions {
  const json = shape.object(parseJson(data, 'announcement', 1_024), 'announcement')
  return { root: shape.integer(json['root'], 'root', 0), timestamp: shape.integer(json['timestamp'], 'timestamp', 0) }
}
