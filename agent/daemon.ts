import { readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { parseChunkIndex } from '../protocol/chunks/chunk-index.ts'
import { FlotillaError, messageOf } from '../protocol/errors.ts'
import { type Certificate, parseCertificate } from '../protocol/membership/certificate.ts'
import { BulkListener } from '../protocol/network/bulk-channel.ts'
import { ExchangeDriver, type ExchangeEvents } from '../protocol/network/exchange-driver.ts'
import { FleetNode } from '../protocol/network/fleet-node.ts'
import { type Identity, identityFromSeed } from '../protocol/network/identity.ts'
import { parseRelease, type Release, shortId } from '../protocol/release/description.ts'
import { listReleases } from '../protocol/release/find-release.ts'
import { timeFloorMs } from '../protocol/trust/time-floor.ts'
import { DEVICE_RULES } from '../protocol/trust/trusted-set.ts'
import type { AgentConfig } from './config.ts'
import { agentRoutes, type AgentView, buildRecord } from './control/agent-view.ts'
import type { EventLog } from './control/event-log.ts'
import { DayCount } from './control/day-count.ts'
import { HoldList } from './control/hold-list.ts'
import { MovedBytes } from './control/moved-bytes.ts'
import { OwnLinks } from '../protocol/network/own-links.ts'
import { serveLocalApi } from './control/local-api.ts'
import { RoundTripWatch } from './control/round-trips.ts'
import { TrafficGuard } from './control/traffic-guard.ts'
import { yieldToTheRobot } from './control/yield-to-the-robot.ts'
import { type Backups, openBackups } from './backup/open-backups.ts'
import { type Core, openCore } from './core/open-core.ts'
import { imageDigests } from './core/signed-images.ts'
import { OwnRecord } from './control/own-record.ts'
import { judgeGate } from './control/reboot-gate.ts'
import { FleetSync } from './fleet-sync.ts'
import { HolderSearch } from './holder-search.ts'
import { probeEngine } from './health/engine-probe.ts'
import { type Baseline, judgeBaseline } from './health/judge-health.ts'
import { type CheckResult, runCheckDirectory } from './health/run-checks.ts'
import type { BootControl } from './slots/bootloaders/boot-control.ts'
import { chooseBootloader } from './slots/bootloaders/choose-bootloader.ts'
import { placeOf } from '../protocol/boot/slot-layout.ts'
import { loadTrial } from './slots/load-trial.ts'
import { RolloutGate } from './slots/rollout-gate.ts'
import { endTrialGuard } from './slots/trial-guard.ts'
import { UpdateJournal } from './slots/update-journal.ts'
import type { UpdateState } from './slots/update-machine.ts'
import { Updater } from './slots/updater.ts'
import { type ChunkSource, readSlots } from './slots/write-release.ts'
import { ArtifactStore } from './store/artifact-store.ts'
import type { BootArea } from './store/boot-area.ts'
import { BlobStore } from './store/blob-store.ts'
import { Carrier } from './store/carrier.ts'
import { FileCompletion } from './store/file-completion.ts'
import { NodeDisk } from './store/node-disk.ts'
import { loadPeers, savePeers } from './store/peer-file.ts'
import { ReleaseFetcher } from './store/release-fetcher.ts'
import { TrustKeeper } from './store/trust-keeper.ts'
import { TrustStore } from './store/trust-store.ts'

/** How the agent ended: it was told to stop, or the device has to reboot. */
export type AgentEnd = { readonly reboot: boolean; readonly why: string; readonly argument?: string | undefined }

const TICK_MS = 500
const CONSIDER_MS = 2_000
/** A cloned key is told so often at most. */
const CLONED_MS = 60_000

/**
 * The agent: joins the parts and is the only place that knows them all.
 * @param slot - the slot that booted, as the loader or the kernel command line says
 */
export class Agent {
  readonly #config: AgentConfig
  readonly #log: EventLog
  readonly #boot: BootArea
  readonly #persist: NodeDisk
  readonly #slot: string
  readonly #stop = new AbortController()
  readonly #holds: HoldList
  #clonedToldMs = -Infinity
  #ended: (end: AgentEnd) => void = () => {}

  constructor(config: AgentConfig, boot: BootArea, slot: string, log: EventLog) {
    this.#config = config
    this.#slot = slot
    this.#log = log
    this.#boot = boot
    this.#persist = new NodeDisk(config.persist)
    this.#holds = new HoldList(config.holdFile)
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
    const seed = await this.#readOwn('identity.key')
    const identity = identityFromSeed(seed)
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
    const links = new OwnLinks(this.#config.radios)
    const node = await this.#startNode(identity, certificateBytes, certificate, trust, sync, links)
    const listener = await BulkListener.start(this.#config.listen, this.#config.bulkPort).catch((error: unknown) => {
      // Slower, not less: chunks then travel with everything else.
      this.#log.add('warn', 'no-bulk-port', { error: messageOf(error) })
      return undefined
    })
    const linkOf = (peer: string) => links.towards(node.hostOf(peer) ?? '')
    const moved = new MovedBytes(linkOf)
    const exchangeEvents: ExchangeEvents = {
      complete: (artifact) => void completion.artifactComplete(artifact),
      fetched: (bytes, from) => moved.fetched(bytes, from),
      served: (bytes, to) => moved.served(bytes, to),
      storeFailed: (artifact, error) => {
        this.#log.add('error', 'store-failed', { artifact, error: messageOf(error) })
        completion.fail(artifact, error)
      },
      rotten: (artifact, chunk) => this.#log.add('error', 'bit-rot', { artifact, chunk }),
    }
    const driver = new ExchangeDriver(node, store, exchangeEvents, listener)
    this.#isIdle = (peer) => driver.isIdle(peer)
    const completion = new FileCompletion(store, (chunks) => driver.foundLocally(chunks))
    const roundTrips = new RoundTripWatch()
    const traffic = await TrafficGuard.open({
      rules: this.#config.traffic,
      file: this.#config.trafficFile,
      moved,
      day: await DayCount.open(this.#persist),
      floorMs: () => timeFloorMs(trust.set),
      roundTrips: () => roundTrips.look([node.port(4) || node.port(6), this.#config.bulkPort]),
      apply: ({ sendRate, receiveRate, closedLinks }) =>
        driver.limit({
          sendRate,
          receiveRate,
          perPeerRate: this.#config.traffic.perPeerRate,
          isClosed: (peer) => closedLinks.size > 0 && closedLinks.has(linkOf(peer)),
        }),
    })
    yieldToTheRobot(this.#config.nice)
    const chunks: ChunkSource = {
      want: (index, have, priority) => driver.want(index, have, priority),
      offer: (index, have) => driver.offer(index, have),
      foundLocally: (found) => driver.foundLocally(found),
      lost: (artifact, chunk) => driver.lost(artifact, chunk),
      forget: (artifact) => driver.forget(artifact),
      completed: (file, signal) => completion.wait(file, signal),
    }
    const fetcher = new ReleaseFetcher(blobs, (sha256, maxBytes) => driver.fetchBlob(sha256, maxBytes))
    const control = chooseBootloader(this.#config.family, this.#boot, this.#slot)
    const carrier = new Carrier({
      persist: this.#persist,
      store,
      fetcher,
      chunks,
      quotaBytes: this.#config.carryBytes,
      fetchedBytes: () => moved.fetchedBytes,
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
      family: this.#config.family,
      trialBootSeconds: this.#config.trialBootSeconds,
      requireSoundBoot: () => this.#boot.requireSound(),
      journal: new UpdateJournal(this.#persist),
      chunks,
      log: this.#log,
      device,
      trusted: () => trust.set,
      gate: async () =>
        judgeGate(
          [...(await this.#holds.current()), ...(await core.holds())],
          performance.now(),
          this.#config.maintenance,
          new Date(),
          timeFloorMs(trust.set),
        ),
      prepare: async (id) => {
        const [hold] = await backups.holdFor(id)
        return hold === undefined ? { open: true } : { open: false, reason: hold.reason }
      },
      rollout: await RolloutGate.open(
        sync.book,
        { id: identity.id, board: device.board, channel: device.channel, labels: this.#config.labels },
        this.#persist,
      ),
      baseline: () => this.#baseline(node),
      check: (before) => {
        const containers = before.containers.filter((name) => !core.isUnwanted(name))
        return this.#check({ ...before, containers }, node)
      },
      onProven: async () => void (await endTrialGuard()),
      onReboot: (why) => {
        this.#log.add('info', 'reboot', { reason: why })
        // The record that says so should still reach the neighbours.
        setTimeout(() => this.#ended({ reboot: true, why }), 300)
      },
      onForgotten: (artifact) => driver.forget(artifact),
      fetchedBytes: () => moved.fetchedBytes,
      sleep: pause,
    })
    await this.#registerSlots(store, blobs, driver)
    await sync.start(node)
    this.#members = {
      joined: (member) => (sync.memberJoined(member), driver.memberJoined(member.id, member.radioHops), considerSoon()),
      gone: (id) => driver.memberGone(id),
    }
    // Members first: a question that comes before its asker is known would be lost.
    for (const member of node.members()) this.#members.joined(member)
    await driver.start()
    const opened = await openBackups({
      config: this.#config.backups,
      persist: this.#persist,
      persistPath: this.#config.persist,
      dataDirectory: this.#config.skiff,
      engineSocket: this.#config.engineSocket,
      self: identity.id,
      seed,
      node,
      book: sync.book,
      policy: () => trust.policy,
      floorMs: () => timeFloorMs(trust.set),
      signedImages: () => imageDigests(updater.running === undefined ? [] : [updater.running]),
      isBusy: () => updater.state.phase === 'fetching',
      spend: (peer, bytes, isWanted) => driver.spend(peer, bytes, isWanted),
      onMoved: (direction, bytes, peer) => moved[direction](bytes, peer),
      log: this.#log,
    })
    const core: Core = await openCore({
      onEngine: opened.onEngine,
      persist: this.#persist,
      persistPath: this.#config.persist,
      dataDirectory: this.#config.skiff,
      runDirectory: dirname(this.#config.socket),
      engineSocket: this.#config.engineSocket,
      loginShell: this.#config.accounts ? this.#config.loginShell : undefined,
      running: () => updater.running,
      releasesInSlots: () => updater.releasesInSlots(),
      pointers: () => listReleases(trust.set, DEVICE_RULES),
      fetcher,
      store,
      chunks,
      log: this.#log,
    })
    const backups: Backups = await opened.start(core)
    const view: AgentView = {
      identity,
      certificate,
      config: this.#config,
      slot: this.#slot,
      boot: this.#boot,
      control,
      node,
      links,
      updater,
      carrier,
      trust,
      book: sync.book,
      log: this.#log,
      holds: this.#holds,
      traffic,
      core,
      backups,
      counters: moved,
    }
    const own = await OwnRecord.open(
      this.#persist,
      () => buildRecord(view),
      certificateBytes,
      identity.sign,
      // Mute on a disk that went read-only it would be of no use to anybody.
      (error) => this.#log.add('error', 'persist-failed', { error: messageOf(error) }),
    )
    sync.onOwnRecord = (seq) => void this.#judgeOwn(own, seq)
    const holders = new HolderSearch(sync.book, node, () => links.isAllRadio)
    consider = async () => {
      const set = trust.set
      await updater.consider()
      holders.seek(updater.wanted(), moved.fetchedBytes)
      const others = listReleases(set, DEVICE_RULES).filter(
        (pointer) =>
          pointer.halted === undefined && !(pointer.board === device.board && pointer.channel === device.channel),
      )
      // Couriers serve others only when they themselves are done.
      if (updater.state.phase === 'idle' || updater.state.phase === 'written')
        await carrier.follow(certificate.capabilities.includes('courier') ? others : [], this.#stop.signal)
    }
    const api = await serveLocalApi(this.#config.socket, agentRoutes(view))
    await updater.start()
    this.#log.add('info', 'started', { device: identity.id, slot: this.#slot, port: node.port(4) })
    const tick = setInterval(() => {
      try {
        updater.tick().catch((error: unknown) => this.#log.add('error', 'tick-failed', { error: messageOf(error) }))
        const record = own.next(performance.now(), sync.book.size)
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
    await traffic.stop()
    roundTrips.stop()
    driver.stop()
    api.close()
    await Promise.all([core.stop(), backups.stop()]) // told at once: a recovery that ends early is no failure of the core
    await savePeers(this.#persist, node.known())
    await updater.stop()
    await node.stop()
    if (end.reboot && this.#config.kexec) await this.#loadTrial(control, updater.state)
    const argument = end.reboot ? await control.prepareReboot() : undefined
    await this.#boot.close()
    await this.#persist.close()
    return { ...end, argument }
  }

  /** A trial that cannot be started faster is started by the loader. */
  async #loadTrial(control: BootControl, { phase, target }: UpdateState): Promise<void> {
    if (phase !== 'armed' || target === undefined) return
    try {
      // The kernel loads nothing that somebody has open to write.
      await this.#boot.close()
      const slot = await loadTrial(this.#boot, this.#config.boot, control, shortId(target.id))
      if (slot !== undefined) this.#log.add('info', 'kexec', { release: target.id })
    } catch (error) {
      this.#log.add('warn', 'kexec-failed', { release: target.id, error: messageOf(error) })
    }
  }

  #isIdle: (peer: string) => boolean = () => true
  #members: { joined: (member: ReturnType<FleetNode['members']>[number]) => void; gone: (id: string) => void } = {
    joined: () => {},
    gone: () => {},
  }

  async #startNode(
    identity: Identity,
    certificateBytes: Uint8Array,
    { name, fleet, board }: Certificate,
    trust: TrustKeeper,
    sync: FleetSync,
    links: OwnLinks,
  ): Promise<FleetNode> {
    return FleetNode.start({
      identity,
      certificate: certificateBytes,
      name,
      fleet,
      policy: () => trust.policy,
      trust: () => trust.versions,
      refreshTrust: (open) => sync.refreshFromStranger(open),
      port: this.#config.port,
      listenHosts: this.#config.listen,
      interfaces: this.#config.interfaces,
      discovery: this.#config.discovery,
      staticPeers: this.#config.peers,
      remembered: await loadPeers(this.#persist),
      isRadio: (host) => links.isRadio(host),
      // Devices of its board have what this one will need, whether or not they carry what others need.
      neighbours: {
        isPreferred: (id) => sync.book.get(id)?.record.board === board,
        isIdle: (id) => this.#isIdle(id),
      },
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
        gossip: (topic, data, from, author) => sync.gossip(topic, data, from, author),
      },
    })
  }

  async #judgeOwn(own: OwnRecord, seq: number): Promise<void> {
    try {
      const verdict = await own.heard(seq)
      if (verdict === 'restored') this.#log.add('warn', 'record-ahead', { seq, goesOn: 'above it' })
      if (verdict !== 'elsewhere' || performance.now() < this.#clonedToldMs + CLONED_MS) return
      this.#clonedToldMs = performance.now()
      this.#log.add('error', 'key-elsewhere', {
        code: 'CLONED',
        seq,
        next: "another device signs with this device's key; enrol both anew and revoke this id",
      })
    } catch (error) {
      this.#log.add('error', 'record-failed', { error: messageOf(error) })
    }
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

  /** An operator may close the laptop once the first device has everything: no release has to reach it. */
  async #baseline(node: FleetNode): Promise<Baseline> {
    const engine = await probeEngine(this.#config.engineSocket)
    return { peers: node.neighbours().map(({ id }) => id), ...engine }
  }

  async #check(before: Baseline, node: FleetNode): Promise<readonly CheckResult[]> {
    const engine = before.engine
      ? await probeEngine(this.#config.engineSocket)
      : { engine: undefined, containers: undefined }
    const peers = node.neighbours().map(({ id }) => id)
    const builtIn = judgeBaseline(before, { peers, ...engine }, this.#config.builtIn)
    const scripts = await runCheckDirectory(this.#config.healthDirectory, this.#config.checkTimeoutMs, {
      FLOTILLA_SLOT: this.#slot,
    })
    return [...builtIn, ...scripts]
  }
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
