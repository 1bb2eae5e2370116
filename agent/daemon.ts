import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseChunkIndex } from '../protocol/chunks/chunk-index.ts'
import { FlotillaError, messageOf } from '../protocol/errors.ts'
import type { DeviceRecord, DeviceState } from '../protocol/gossip/device-record.ts'
import { parseCertificate } from '../protocol/membership/certificate.ts'
import { ExchangeDriver } from '../protocol/network/exchange-driver.ts'
import { FleetNode } from '../protocol/network/fleet-node.ts'
import { type Identity, identityFromSeed } from '../protocol/network/identity.ts'
import { parseRelease, type Release, releaseBytes } from '../protocol/release/description.ts'
import { listReleases } from '../protocol/release/find-release.ts'
import { parseJson, shape } from '../protocol/shape.ts'
import { freshness, timeFloorMs } from '../protocol/trust/time-floor.ts'
import { DEVICE_RULES } from '../protocol/trust/trusted-set.ts'
import type { AgentConfig } from './config.ts'
import type { EventLog } from './control/event-log.ts'
import { type LocalApi, serveLocalApi } from './control/local-api.ts'
import { OwnRecord } from './control/own-record.ts'
import { type Hold, judgeGate, MAX_HOLD_SECONDS, readHoldFile } from './control/reboot-gate.ts'
import { fleetRows } from '../protocol/gossip/fleet-rows.ts'
import { FleetSync } from './fleet-sync.ts'
import { probeEngine } from './health/engine-probe.ts'
import { type Baseline, judgeBaseline } from './health/judge-health.ts'
import { type CheckResult, runCheckDirectory } from './health/run-checks.ts'
import { DirectoryBoot } from './slots/bootloaders/directory.ts'
import { placeOf } from '../protocol/boot/slot-layout.ts'
import { UpdateJournal } from './slots/update-journal.ts'
import { Updater } from './slots/updater.ts'
import { type ChunkSource, readSlots } from './slots/write-release.ts'
import { ArtifactStore } from './store/artifact-store.ts'
import { BlobStore } from './store/blob-store.ts'
import { Carrier } from './store/carrier.ts'
import { FileCompletion } from './store/file-completion.ts'
import { NodeDisk } from './store/node-disk.ts'
import { ReleaseFetcher } from './store/release-fetcher.ts'
import { TrustKeeper } from './store/trust-keeper.ts'
import { TrustStore } from './store/trust-store.ts'

/** How the agent ended: it was told to stop, or the device has to reboot. */
export type AgentEnd = { readonly reboot: boolean; readonly why: string }

const TICK_MS = 500
const CONSIDER_MS = 2_000

/**
 * The agent: joins the parts and is the only place that knows them all.
 * @param slot - the slot that booted, as the loader or the kernel command line says
 */
export class Agent {
  readonly #config: AgentConfig
  readonly #log: EventLog
  readonly #boot: NodeDisk
  readonly #persist: NodeDisk
  readonly #slot: string
  readonly #stop = new AbortController()
  readonly #counters = { fetchedBytes: 0, servedBytes: 0 }
  #holds: Hold[] = []
  #ended: (end: AgentEnd) => void = () => {}

  constructor(config: AgentConfig, slot: string, log: EventLog) {
    this.#config = config
    this.#slot = slot
    this.#log = log
    this.#boot = new NodeDisk(config.boot)
    this.#persist = new NodeDisk(config.persist)
  }

  stop(): void {
    this.#ended({ reboot: false, why: 'told to stop' })
  }

  /** Runs until the device must reboot or `stop` is called. @throws FlotillaError when it cannot start */
  async run(): Promise<AgentEnd> {
    const ended = new Promise<AgentEnd>((resolve) => {
      this.#ended = resolve
    })
    const certificateBytes = await this.#readOwn('certificate.json')
    const identity = identityFromSeed(await this.#readOwn('identity.key'))
    const { certificate } = parseCertificate(certificateBytes)
    if (certificate.device !== identity.id)
      throw new FlotillaError('BAD_CONFIG', 'start: certificate.json is for another device key; enrol the device again')

    // What is signed is looked at again whenever something changes; nothing happens before all parts are there.
    let consider = () => Promise.resolve()
    let considering = Promise.resolve()
    const considerSoon = () => {
      considering = considering
        .then(() => consider())
        .catch((error: unknown) => this.#log.add('warn', 'consider-failed', { error: messageOf(error) }))
    }
    const trust = new TrustKeeper(
      new TrustStore(this.#persist),
      await new TrustStore(this.#persist).load(),
      certificate.fleet,
    )
    const blobs = new BlobStore(this.#persist)
    const store = new ArtifactStore(this.#persist, (sha256) => blobs.read(sha256))
    const sync = new FleetSync(trust, this.#log, considerSoon)
    const node = await this.#startNode(identity, certificateBytes, certificate.name, certificate.fleet, trust, sync)
    const driver = new ExchangeDriver(node, store, {
      complete: (artifact) => void completion.artifactComplete(artifact),
      fetched: (bytes) => void (this.#counters.fetchedBytes += bytes),
      served: (bytes) => void (this.#counters.servedBytes += bytes),
      storeFailed: (artifact, error) => {
        this.#log.add('error', 'store-failed', { artifact, error: messageOf(error) })
        completion.fail(artifact, error)
      },
      rotten: (artifact, chunk) => this.#log.add('error', 'bit-rot', { artifact, chunk }),
    })
    const completion = new FileCompletion(store, (chunks) => driver.foundLocally(chunks))
    const chunks: ChunkSource = {
      want: (index, have, priority) => driver.want(index, have, priority),
      foundLocally: (found) => driver.foundLocally(found),
      lost: (artifact, chunk) => driver.lost(artifact, chunk),
      forget: (artifact) => driver.forget(artifact),
      completed: (file, signal) => completion.wait(file, signal),
    }
    const fetcher = new ReleaseFetcher(blobs, (sha256, maxBytes) => driver.fetchBlob(sha256, maxBytes))
    const control = new DirectoryBoot(this.#boot, this.#slot)
    const carrier = new Carrier({
      persist: this.#persist,
      store,
      fetcher,
      chunks,
      quotaBytes: this.#config.carryBytes,
      fetchedBytes: () => this.#counters.fetchedBytes,
      log: this.#log,
    })
    const device = {
      board: certificate.board,
      channel: this.#config.channel,
      hardware: this.#config.hardware,
      keepReleases: this.#config.keepReleases,
    }
    const updater = await Updater.load({
      boot: this.#boot,
      persist: this.#persist,
      store,
      fetcher,
      control,
      journal: new UpdateJournal(this.#persist),
      chunks,
      log: this.#log,
      device,
      trusted: () => trust.set,
      gate: async () =>
        judgeGate(
          await this.#currentHolds(),
          performance.now(),
          this.#config.maintenance,
          new Date(),
          timeFloorMs(trust.set),
        ),
      baseline: () => this.#baseline(node),
      check: (before) => this.#check(before, node),
      onReboot: (why) => {
        this.#log.add('info', 'reboot', { reason: why })
        // The record that says so should still reach the neighbours.
        setTimeout(() => this.#ended({ reboot: true, why }), 300)
      },
      onForgotten: (artifact) => driver.forget(artifact),
      fetchedBytes: () => this.#counters.fetchedBytes,
      sleep: pause,
    })
    await this.#registerSlots(store, blobs, driver)
    await sync.start(node)
    this.#members = {
      joined: (member) => (sync.memberJoined(member), driver.memberJoined(member.id), considerSoon()),
      gone: (id) => driver.memberGone(id),
    }
    // Members first: a question that comes before its asker is known would be lost.
    for (const member of node.members()) this.#members.joined(member)
    await driver.start()
    const own = await OwnRecord.open(
      this.#persist,
      () => this.#record(identity, certificate, updater, carrier, trust),
      certificateBytes,
      identity.sign,
    )
    consider = async () => {
      const set = trust.set
      await updater.consider()
      const others = listReleases(set, DEVICE_RULES).filter(
        (pointer) => pointer.board !== device.board || pointer.channel !== device.channel,
      )
      // Couriers serve others only when they themselves are done.
      if (updater.state.phase === 'idle' || updater.state.phase === 'written')
        await carrier.follow(certificate.capabilities.includes('courier') ? others : [], this.#stop.signal)
    }
    const api = await serveLocalApi(
      this.#config.socket,
      this.#routes({ node, updater, carrier, sync, trust, identity, certificate, driver }),
    )
    await updater.start()
    this.#log.add('info', 'started', { device: identity.id, slot: this.#slot, port: node.port(4) })
    const tick = setInterval(() => {
      try {
        void updater.tick()
        const record = own.next(performance.now())
        if (record !== undefined) sync.publishRecord(record)
      } catch (error) {
        // A record that cannot be made must not take the device down; others see its age.
        this.#log.add('error', 'tick-failed', { error: messageOf(error) })
      }
    }, TICK_MS)
    const considerTimer = setInterval(considerSoon, CONSIDER_MS)
    considerSoon()

    const end = await ended
    clearInterval(tick)
    clearInterval(considerTimer)
    this.#stop.abort(new Error('stopping'))
    sync.stop()
    driver.stop()
    api.close()
    await this.#savePeers(node)
    await updater.stop()
    await node.stop()
    await this.#boot.close()
    await this.#persist.close()
    return end
  }

  #members: { joined: (member: ReturnType<FleetNode['members']>[number]) => void; gone: (id: string) => void } = {
    joined: () => {},
    gone: () => {},
  }

  async #startNode(
    identity: Identity,
    certificate: Uint8Array,
    name: string,
    fleet: string,
    trust: TrustKeeper,
    sync: FleetSync,
  ): Promise<FleetNode> {
    return FleetNode.start({
      identity,
      certificate,
      name,
      fleet,
      policy: () => trust.policy,
      trust: () => trust.versions,
      refreshTrust: (open) => sync.refresh(open),
      port: this.#config.port,
      listenHosts: this.#config.listen,
      interfaces: this.#config.interfaces,
      discovery: this.#config.discovery,
      staticPeers: this.#config.peers,
      remembered: await this.#loadPeers(),
      events: {
        member: (member) => {
          this.#log.add('info', 'peer-joined', { peer: member.id, name: member.certificate.name })
          this.#members.joined(member)
        },
        memberGone: (id) => {
          this.#log.add('info', 'peer-gone', { peer: id })
          this.#members.gone(id)
        },
        refused: (id, code, why) => this.#log.add('warn', 'peer-refused', { peer: id, code, why }),
        gossip: (topic, data, from) => sync.gossip(topic, data, from),
      },
    })
  }

  async #readOwn(name: string): Promise<Uint8Array> {
    try {
      return await readFile(join(this.#config.persist, name))
    } catch (cause) {
      throw new FlotillaError(
        'BAD_CONFIG',
        `start: cannot read ${join(this.#config.persist, name)}; provision the device with \`flotilla device create\``,
        { cause },
      )
    }
  }

  /** Everything in whole slots is offered to others and is seed data for the next release. */
  async #registerSlots(store: ArtifactStore, blobs: BlobStore, driver: ExchangeDriver): Promise<void> {
    for (const { release, proven, slot } of await readSlots(this.#boot)) {
      if (release === undefined || (!proven && slot !== this.#slot)) continue
      let parsed: Release
      try {
        parsed = parseRelease(release)
      } catch (error) {
        this.#log.add('warn', 'slot-unreadable', { slot, error: messageOf(error) })
        continue
      }
      await blobs.write(release)
      for (const artifact of parsed.description.artifacts) {
        const bytes = await blobs.read(artifact.index.sha256)
        const place = placeOf(parsed.id, artifact)
        const disk = place.area === 'boot' ? this.#boot : this.#persist
        if (bytes === undefined || (await disk.length(place.path)) !== artifact.lengthBytes) continue
        const index = parseChunkIndex(bytes)
        const file = store.addWhole(index, disk, place.path)
        driver.offer(index, file.have)
      }
    }
  }

  async #currentHolds(): Promise<readonly Hold[]> {
    const file = await readHoldFile(this.#config.holdFile, Date.now(), performance.now())
    this.#holds = this.#holds.filter((hold) => hold.untilMs > performance.now())
    return file === undefined ? this.#holds : [file, ...this.#holds]
  }

  async #baseline(node: FleetNode): Promise<Baseline> {
    const engine = await probeEngine(this.#config.engineSocket)
    return { peers: node.members().map((member) => member.id), ...engine }
  }

  async #check(before: Baseline, node: FleetNode): Promise<readonly CheckResult[]> {
    const engine = before.engine
      ? await probeEngine(this.#config.engineSocket)
      : { engine: undefined, containers: undefined }
    const builtIn = judgeBaseline(
      before,
      { peers: node.members().map((member) => member.id), ...engine },
      this.#config.builtIn,
    )
    const scripts = await runCheckDirectory(this.#config.healthDirectory, this.#config.checkTimeoutMs, {
      FLOTILLA_SLOT: this.#slot,
    })
    return [...builtIn, ...scripts]
  }

  #record(
    identity: Identity,
    certificate: { name: string; board: string },
    updater: Updater,
    carrier: Carrier,
    trust: TrustKeeper,
  ): Omit<DeviceRecord, 'seq'> {
    const running = updater.running
    const target = updater.state.target
    const failed = updater.state.failed.at(-1)
    const progress = this.#progress(updater)
    return {
      device: identity.id,
      name: certificate.name,
      board: certificate.board,
      channel: this.#config.channel,
      state: stateOf(updater),
      running:
        running === undefined
          ? undefined
          : { id: running.id, version: running.description.version, seq: running.description.seq },
      // Tens of percent: a record for every chunk would be a storm.
      next:
        target === undefined
          ? undefined
          : { id: target.id, version: target.version, percent: Math.floor(progress / 10) * 10 },
      holds: [...(running === undefined ? [] : [running.id]), ...carrier.whole()].slice(0, 32),
      failed,
      trust: trust.versions,
      holdReason: updater.waitingFor.slice(0, 200),
      labels: this.#config.labels,
    }
  }

  #progress(updater: Updater): number {
    return updater.state.phase === 'fetching' ? updater.percent() : updater.state.target === undefined ? 0 : 100
  }

  #routes(parts: {
    node: FleetNode
    updater: Updater
    carrier: Carrier
    sync: FleetSync
    trust: TrustKeeper
    identity: Identity
    certificate: { name: string; board: string; fleet: string }
    driver: ExchangeDriver
  }): LocalApi {
    const { node, updater, carrier, sync, trust, identity, certificate } = parts
    const describe = (release: Release, extra: Readonly<Record<string, unknown>>) => ({
      id: release.id,
      board: release.description.board,
      version: release.description.version,
      seq: release.description.seq,
      bytes: releaseBytes(release.description),
      ...extra,
    })
    return {
      'GET /status': async () => ({
        device: identity.id,
        name: certificate.name,
        fleet: certificate.fleet,
        board: certificate.board,
        channel: this.#config.channel,
        pid: process.pid,
        slot: this.#slot,
        goodSlot: await new DirectoryBoot(this.#boot, this.#slot).good(),
        state: stateOf(updater),
        running: updater.running === undefined ? null : describe(updater.running, {}),
        next: updater.state.target === undefined ? null : { ...updater.state.target, percent: this.#progress(updater) },
        waitingFor: updater.waitingFor,
        failed: updater.state.failed,
        floor: updater.state.floor,
        trust: {
          ...trust.versions,
          floor: new Date(timeFloorMs(trust.set)).toISOString(),
          ...freshness(trust.set, Date.now()),
        },
        peers: node.members().length,
        ...this.#counters,
        memoryBytes: process.memoryUsage.rss(),
        uptimeSeconds: Math.round(process.uptime()),
      }),
      'GET /peers': () =>
        node.members().map((member) => ({
          id: member.id,
          name: member.certificate.name,
          board: member.certificate.board,
          address: member.address,
        })),
      'GET /events': () => this.#log.since(0),
      'GET /fleet': () => fleetRows(sync.book.all(performance.now())),
      'GET /releases': async () => [
        ...(await readSlots(this.#boot)).flatMap(({ slot, release, proven }) =>
          release === undefined
            ? []
            : [
                describe(parseRelease(release), {
                  where: `slot ${slot}`,
                  proven,
                  running: slot === this.#slot,
                  percent: 100,
                }),
              ],
        ),
        ...carrier
          .list()
          .map(({ release, whole, percent }) =>
            describe(release, { where: 'carried', proven: false, running: false, percent: whole ? 100 : percent }),
          ),
      ],
      'POST /hold': (body) => {
        const json = shape.object(body, 'hold')
        const reason = shape.string(json['reason'], 'hold: reason', 200)
        const seconds = shape.integer(json['seconds'], 'hold: seconds', 1, MAX_HOLD_SECONDS)
        this.#holds = [
          ...this.#holds.filter((hold) => hold.reason !== reason),
          { reason, untilMs: performance.now() + seconds * 1_000 },
        ].slice(-32)
        this.#log.add('info', 'hold', { reason, seconds })
        return { reason, seconds }
      },
      'POST /release-hold': (body) => {
        const reason = body === undefined ? undefined : shape.object(body, 'release')['reason']
        this.#holds = this.#holds.filter((hold) => reason !== undefined && hold.reason !== reason)
        return { holds: this.#holds.length }
      },
      'POST /rollback': async (body) => ({
        to: await updater.rollback(shape.string(shape.object(body, 'rollback')['reason'], 'rollback: reason', 200)),
      }),
    }
  }

  async #loadPeers() {
    try {
      const json = parseJson(await readFile(join(this.#config.persist, 'peers.json')), 'peers.json', 262_144)
      return shape.array(json, 'peers.json', 1_024).map((item) => {
        const peer = shape.object(item, 'peers.json[]')
        return {
          id: shape.string(peer['id'], 'id', 128),
          addresses: shape
            .array(peer['addresses'], 'addresses', 8)
            .map((address) => shape.string(address, 'address', 128)),
        }
      })
    } catch {
      return [] // first start, or a file that was being written: peers are found again
    }
  }

  async #savePeers(node: FleetNode): Promise<void> {
    const bytes = Buffer.from(JSON.stringify(node.known().slice(0, 256)))
    try {
      await this.#persist.remove('peers.json')
      await this.#persist.allocate('peers.json', bytes.length)
      await this.#persist.write('peers.json', 0, bytes)
    } catch (error) {
      this.#log.add('warn', 'peers-not-saved', { error: messageOf(error) })
    }
  }
}

function stateOf(updater: Updater): DeviceState {
  const { phase, outcome } = updater.state
  if (phase !== 'idle') return phase
  return outcome === 'fell-back' ? 'fell-back' : 'proven'
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', abort)
      resolve()
    }, ms)
    if (signal.aborted) abort()
    else signal.addEventListener('abort', abort)
  })
}
