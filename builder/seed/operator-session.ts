import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Bitmap } from '../../protocol/exchange/bitmap.ts'
import { FlotillaError, isFlotillaError, messageOf } from '../../protocol/errors.ts'
import { parseRecord } from '../../protocol/gossip/device-record.ts'
import { type FleetRow, fleetRows } from '../../protocol/gossip/fleet-rows.ts'
import { type HeardRecord, RecordBook } from '../../protocol/gossip/record-book.ts'
import { admit, parseCertificate } from '../../protocol/membership/certificate.ts'
import { BACKUP_PROTOCOL, PieceAsker } from '../../protocol/network/backup-exchange.ts'
import { BulkListener } from '../../protocol/network/bulk-channel.ts'
import { ExchangeDriver, type ExchangeEvents } from '../../protocol/network/exchange-driver.ts'
import { FleetNode, type Member, TOPICS } from '../../protocol/network/fleet-node.ts'
import { OwnLinks } from '../../protocol/network/own-links.ts'
import { identityFromSeed } from '../../protocol/network/identity.ts'
import { METADATA_PROTOCOL, serveBundle } from '../../protocol/network/metadata-exchange.ts'
import { answerRecords, askRecords, RECORD_SYNC_PROTOCOL, type SyncSide } from '../../protocol/network/record-sync.ts'
import type { Release } from '../../protocol/release/description.ts'
import { bundleFor } from '../../protocol/trust/metadata-bundle.ts'
import { enrol } from '../release/create-device.ts'
import type { SigningKey } from '../release/key-file.ts'
import type { Repository } from '../release/repository.ts'
import type { FoundDevice } from './find-device.ts'
import { RepositoryStore } from './repository-store.ts'

/** The operator's own member of the fleet: identity and certificate, kept in the repository. */
export function operatorIdentity(
  repository: Repository,
  openCa: () => SigningKey,
): { readonly seed: Uint8Array; readonly certificate: Uint8Array } {
  const directory = join(repository.path, 'operator')
  const files = { seed: join(directory, 'identity.key'), certificate: join(directory, 'certificate.json') }
  if (existsSync(files.certificate)) {
    const seed = readFileSync(files.seed)
    const certificate = readFileSync(files.certificate)
    try {
      admit(parseCertificate(certificate), identityFromSeed(seed).id, repository.policy())
      return { seed, certificate }
    } catch {
      // the policy moved on: enrolled again below
    }
  }
  const enrolment = enrol(repository, openCa(), {
    name: 'operator',
    board: 'operator',
    capabilities: ['sync', 'serve', 'operator'],
  })
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  writeFileSync(files.seed, enrolment.seed, { mode: 0o600 })
  writeFileSync(files.certificate, enrolment.certificate)
  return { seed: enrolment.seed, certificate: enrolment.certificate }
}

/** How long a device may take to say what it has heard: it may be starting, or busy, at the far end of a slow link. */
const ASK_FLEET_MS = 30_000
const ASK_AGAIN_MS = 200
/** An agent is up again after so long, on a small board too. */
const RESTARTED_WITHIN_MS = 15_000
const CONNECT_AGAIN_MS = 500

export type SessionOptions = {
  readonly repository: Repository
  readonly seed: Uint8Array
  readonly certificate: Uint8Array
  /** Releases to hand over; empty to look only. */
  readonly releases: readonly Release[]
  readonly onRefused: (id: string, code: string, why: string) => void
}

/**
 * A laptop in the fleet: gives metadata and chunks to the device it is connected to and listens to the news.
 * It announces itself to nobody, so the release enters the fleet through that one device.
 */
export class OperatorSession {
  readonly #options: SessionOptions
  readonly #book = new RecordBook()
  readonly #store: RepositoryStore
  #node: FleetNode | undefined
  #driver: ExchangeDriver | undefined
  #timer: NodeJS.Timeout | undefined
  servedBytes = 0

  constructor(options: SessionOptions) {
    this.#options = options
    this.#store = new RepositoryStore(options.repository, options.releases)
  }

  async start(): Promise<void> {
    const { repository } = this.#options
    const set = repository.trustedSet()
    const bundle = repository.bundle()
    const policy = repository.policy()
    const links = new OwnLinks()
    const node = await FleetNode.start({
      identity: identityFromSeed(this.#options.seed),
      certificate: this.#options.certificate,
      name: 'operator',
      fleet: repository.fleet,
      policy: () => policy,
      trust: () => ({ root: set.root.data.version, timestamp: set.timestamp?.data.version ?? 0 }),
      refreshTrust: () => Promise.resolve(),
      port: 0,
      listenHosts: [],
      interfaces: [],
      discovery: false,
      staticPeers: [],
      remembered: [],
      isRadio: (host) => links.isRadio(host),
      events: {
        member: (member) => this.#joined(member),
        memberGone: (id) => this.#driver?.memberGone(id),
        refused: (id, code, why) => this.#options.onRefused(id, code, why),
        gossip: (topic, data) => (topic === TOPICS.records ? this.#takeRecord(data, 0) : 'ignore'),
      },
    })
    this.#node = node
    await node.handle(METADATA_PROTOCOL, (stream) =>
      serveBundle(stream, (have) => bundleFor(set, repository.roots(), have, bundle.policy)),
    )
    await node.handle(RECORD_SYNC_PROTOCOL, (stream) => answerRecords(stream, this.#side()))
    const events: ExchangeEvents = {
      complete: () => {},
      fetched: () => {},
      served: (bytes) => void (this.servedBytes += bytes),
      storeFailed: () => {},
      rotten: (artifact, chunk) =>
        this.#options.onRefused('repository', 'VERIFY_FAILED', `chunk ${chunk} of ${artifact.slice(0, 16)} is damaged`),
    }
    const driver = new ExchangeDriver(node, this.#store, events, await BulkListener.start([], 0))
    this.#driver = driver
    await driver.start()
    for (const index of this.#store.indexes()) driver.offer(index, Bitmap.full(index.count))
    this.#timer = setInterval(() => {
      for (const member of node.members()) void this.#sync(member.id)
    }, 2_000)
  }

  /**
   * Connects to a device by any of its addresses. One that has just answered is tried for 15 s: its agent is being started again.
   * @throws FlotillaError UNREACHABLE, NOT_A_MEMBER
   */
  async connect(device: FoundDevice): Promise<Member> {
    const deadline = performance.now() + (device.hasAnswered ? RESTARTED_WITHIN_MS : 0)
    for (;;) {
      try {
        return await this.#connectNow(device.addresses)
      } catch (error) {
        if (isFlotillaError(error, 'NOT_A_MEMBER') || performance.now() > deadline) throw error
      }
      await new Promise((resolve) => setTimeout(resolve, CONNECT_AGAIN_MS))
    }
  }

  async #connectNow(addresses: readonly string[]): Promise<Member> {
    const failures: string[] = []
    // IPv4 first: a link-local IPv6 address without its zone reaches nobody.
    const ordered = [...addresses].sort((a, b) => Number(a.includes('/ip6/')) - Number(b.includes('/ip6/')))
    for (const address of ordered) {
      try {
        const member = await this.#node?.reach(address)
        if (member !== undefined) return member
      } catch (error) {
        if (isFlotillaError(error, 'NOT_A_MEMBER')) throw error
        failures.push(messageOf(error))
      }
    }
    throw new FlotillaError('UNREACHABLE', failures.join('; '))
  }

  /** The records of all devices that were heard of. */
  records(): readonly HeardRecord[] {
    return this.#book.all(performance.now())
  }

  /** The record that tells of a backup repository, as far as a member has it. */
  async backupHead(device: string, repository: string): Promise<Uint8Array | undefined> {
    if (this.#node?.isMember(device) !== true) return undefined
    const asker = new PieceAsker(await this.#node.open(device, BACKUP_PROTOCOL))
    const head = await asker.head(repository)
    await asker.close()
    return head
  }

  /** The version of timestamp metadata that a device last said it holds. */
  trustOf(device: string): number | undefined {
    return this.#book.get(device)?.record.trust.timestamp
  }

  /**
   * Asks a member for all that it has heard of the fleet: again where an exchange was cut short, and until one brings no device
   * that is new here, since an exchange carries 128 records at most.
   * @throws FlotillaError UNREACHABLE when it did not answer within 30 s
   */
  async askFleet(member: Member): Promise<void> {
    const deadline = performance.now() + ASK_FLEET_MS
    let failure = 'it has heard of nobody, not even of itself'
    for (;;) {
      const before = this.fleet().length
      try {
        await this.#ask(member.id)
        if (before > 0 && this.fleet().length === before) return
      } catch (error) {
        failure = messageOf(error)
      }
      if (performance.now() > deadline) break
      await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN_MS))
    }
    if (this.fleet().length > 0) return
    throw new FlotillaError(
      'UNREACHABLE',
      `${member.certificate.name} does not say what it has heard of the fleet: ${failure}`,
    )
  }

  /** The fleet as last heard, without operators. */
  fleet(): readonly FleetRow[] {
    return fleetRows(this.#book.all(performance.now()))
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer)
    this.#driver?.stop()
    await this.#node?.stop()
    await this.#store.close()
  }

  #joined(member: Member): void {
    this.#driver?.memberJoined(member.id, member.radioHops)
    void this.#sync(member.id)
  }

  async #sync(peer: string): Promise<void> {
    try {
      await this.#ask(peer)
    } catch {
      // it is rebooting or gone; asked again in two seconds
    }
  }

  /** One exchange of digests. */
  async #ask(peer: string): Promise<void> {
    if (this.#node === undefined) return
    await askRecords(await this.#node.open(peer, RECORD_SYNC_PROTOCOL), this.#side())
  }

  #side(): SyncSide {
    return {
      summary: () => this.#book.summary(performance.now()),
      digest: () => this.#book.digest(performance.now()),
      newerThan: (digest) => this.#book.newerThan(digest, performance.now()),
      take: (bytes, ageMs) => void this.#takeRecord(bytes, ageMs),
      peers: () => [],
      takePeer: () => {},
    }
  }

  #takeRecord(bytes: Uint8Array, ageMs: number): 'accept' | 'ignore' | 'reject' {
    try {
      const signed = parseRecord(bytes)
      admit(signed.certificate, signed.record.device, this.#options.repository.policy())
      return this.#book.merge(signed, ageMs, performance.now()) ? 'accept' : 'ignore'
    } catch (error) {
      this.#options.onRefused('record', 'FORMAT', messageOf(error))
      return 'reject'
    }
  }
}
