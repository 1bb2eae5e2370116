import { setTimeout as pause } from 'node:timers/promises'
import { dropOldest } from '../../protocol/bounded-map.ts'
import type { HolderState } from '../../protocol/backup/backup-head.ts'
import { pathOf, totalBytes } from '../../protocol/backup/repository-list.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { TokenBucket } from '../../protocol/exchange/token-bucket.ts'
import { parseRepositoryName } from '../../protocol/backup/repository-name.ts'
import type { SignedRecord } from '../../protocol/gossip/device-record.ts'
import type { RecordBook } from '../../protocol/gossip/record-book.ts'
import type { FleetPolicy } from '../../protocol/membership/fleet-policy.ts'
import { BACKUP_PROTOCOL, PieceAsker, type PieceQuestion, servePieces } from '../../protocol/network/backup-exchange.ts'
import type { FleetNode } from '../../protocol/network/fleet-node.ts'
import type { EventLog } from '../control/event-log.ts'
import type { BackupConfig } from './backup-config.ts'
import { CopyWatch, DISTRUST_MS } from './copy-watch.ts'
import { fetchFiles, type PieceSource } from './fetch-replica.ts'
import type { OwnRepository } from './own-repository.ts'
import { readPiece } from './read-piece.ts'
import { repeat } from './repeat.ts'
import { heldBytes, percentOf, type Replica, type ReplicaStore } from './replica-store.ts'
import { replicaStates, surveyBackups, type SurveyedRepository, wholeCopies } from './survey-backups.ts'

export type ReplicaKeeperDeps = {
  readonly self: string
  readonly config: BackupConfig
  readonly store: ReplicaStore
  readonly own: OwnRepository
  readonly node: FleetNode
  readonly book: RecordBook
  readonly policy: () => Pick<FleetPolicy, 'claims'>
  readonly sealKey: string
  /** Something more urgent is fetched: a release. */
  readonly isBusy: () => boolean
  readonly spend: (peer: string, bytes: number, isWanted: () => boolean) => Promise<void>
  readonly onMoved: (direction: 'fetched' | 'served', bytes: number, peer: string) => void
  readonly log: EventLog
  readonly signal: AbortSignal
}

const TICK_MS = 2_000
const YIELD_MS = 500
const GRANULE = 64 * 2 ** 20
/** Room that backups leave on the disk for everything else. */
const RESERVE_BYTES = 256 * 2 ** 20
/** A source that sent what was not asked for is left alone for so long. */
const WRONG_MS = 600_000
const MAX_WRONG = 1_000
/** A head that drops more of what is here than this is told of loudly. */
const ALARM_SHARE = 0.5
const SAVE_SECONDS = 300
const SURVEY_MS = 30_000
/** Repositories that one device began. */
const MOST_LINES = 2
/** Order in which a repository is fetched: with what comes last it can be used. */
const ORDER = ['keys', 'config', 'data', 'index', 'snapshots'] as const

/** Holds replicas of other devices' repositories as the placement says, serves them, and gives them back. */
export class ReplicaKeeper {
  readonly #deps: ReplicaKeeperDeps
  readonly #wrong = new Map<string, number>()
  readonly #notes = new Map<string, string>()
  readonly #hurriedMs = new Map<string, number>()
  readonly #rate: TokenBucket
  readonly #copies: CopyWatch
  #survey: ReadonlyMap<string, SurveyedRepository> = new Map()
  /** What the survey was made of, and when: ages in it are shown to people. */
  #surveyed = { key: '', atMs: 0 }
  #freeBytes = 0
  #lastMs = performance.now()
  #unsavedSeconds = 0
  #running: Promise<void> = Promise.resolve()
  #ticking: Promise<void> = Promise.resolve()
  #pause: Promise<void> = Promise.resolve()
  /** A repository that this device takes over: it is fetched whatever the placement and the quotas say. */
  adopting: SignedRecord | undefined

  constructor(deps: ReplicaKeeperDeps) {
    this.#deps = deps
    this.#rate = new TokenBucket(deps.config.bytesPerSecond, performance.now())
    this.#copies = new CopyWatch({
      ...deps,
      known: () => this.#survey.get(deps.own.state.repository),
      read: (question) => this.#read(question),
      sourcesOf: (repository) => this.sourcesOf(repository),
      rate: this.#rate,
      onFetched: (bytes, device) => deps.onMoved('fetched', bytes, device),
      tell: (repository, event, text) => this.#note(repository, 'error', event, text),
    })
  }

  async start(): Promise<void> {
    await this.#deps.node.handle(BACKUP_PROTOCOL, (stream, peer) =>
      servePieces(stream, peer, {
        read: (question) => this.#read(question),
        spend: async (to, bytes, isWanted) => {
          await this.#deps.spend(to, bytes, isWanted)
          this.#deps.onMoved('served', bytes, to)
        },
      }),
    )
    const pauseMs = () => TICK_MS * (0.75 + Math.random() / 2)
    this.#running = repeat(() => this.#tickUnlessHeld(), pauseMs, this.#deps.signal)
  }

  /** Once the signal ended it. */
  async stop(): Promise<void> {
    await this.#running
    for (const replica of this.#deps.store.all()) await this.#deps.store.save(replica).catch(() => {})
  }

  async #tickUnlessHeld(): Promise<void> {
    await this.#pause
    this.#ticking = this.#tick().catch((error: unknown) =>
      this.#deps.log.add('warn', 'replicas-failed', { error: messageOf(error) }),
    )
    await this.#ticking
  }

  /** Does something to the replicas while nothing else does. */
  async whileStill<T>(work: () => Promise<T>): Promise<T> {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#pause = promise
    try {
      await this.#ticking
      return await work()
    } finally {
      this.#pause = Promise.resolve()
      resolve()
    }
  }

  /** Repositories of the fleet as far as they were heard of. */
  get survey(): ReadonlyMap<string, SurveyedRepository> {
    return this.#survey
  }

  /** What is odd about a repository; empty when nothing. */
  noteOf(repository: string): string {
    return this.#notes.get(repository) ?? ''
  }

  /** Holders that could not prove what they say. */
  distrusted(): readonly string[] {
    return this.#copies.distrusted()
  }

  /** What the record of this device says of it. */
  state(): HolderState {
    const { store, config, sealKey } = this.#deps
    return {
      offeredBytes: config.offeredBytes,
      freeBytes: Math.floor(this.#freeBytes / GRANULE) * GRANULE,
      mostBytes: config.mostBytes,
      replicas: replicaStates(store.all()),
      sealKey,
    }
  }

  /** Sources of a repository that are connected now: its owner, and who says to hold some of it. */
  sourcesOf(repository: string): readonly PieceSource[] {
    const { node, self } = this.#deps
    const known = this.#survey.get(repository)
    const devices = new Set([
      ...(known === undefined ? [] : [known.owner.device]),
      ...(known?.copies ?? []).map(({ device }) => device),
    ])
    devices.delete(self)
    const usable = [...devices].filter(
      (device) => (this.#wrong.get(`${repository} ${device}`) ?? 0) < performance.now(),
    )
    for (const device of usable) if (!node.isMember(device)) node.seek(device)
    return usable
      .filter((device) => node.isMember(device))
      .map((device) => ({ device, ask: async () => new PieceAsker(await node.open(device, BACKUP_PROTOCOL)) }))
  }

  async #tick(): Promise<void> {
    const { store, config, self, signal } = this.#deps
    const seconds = (performance.now() - this.#lastMs) / 1_000
    this.#lastMs = performance.now()
    const roomBytes = Math.max(0, (await store.freeBytes()) - RESERVE_BYTES)
    this.#freeBytes = Math.max(0, Math.min(config.offeredBytes - store.usedBytes, roomBytes))
    this.#look()
    await this.#age(seconds)
    for (const [repository, known] of this.#survey) {
      if (signal.aborted) return
      if (known.owner.device === self) continue
      const isMine = (known.holders.includes(self) && this.#mayHoldMore(repository)) || this.#adopts(repository)
      try {
        if (isMine) await this.#hold(repository, known)
        else await this.#letGo(repository, known, seconds)
      } catch (error) {
        if (signal.aborted) return
        this.#note(repository, 'warn', 'replica-failed', messageOf(error))
      }
    }
    await this.#scrub()
    await this.#copies.tick()
  }

  /** Surveys what was heard, unless nothing in it is new: in a fleet of hundreds that is a few hundred thousand comparisons. */
  #look(): void {
    const { store, config, book, policy, self, node } = this.#deps
    // Who is connected was heard of just now, whatever it last said.
    const records = book.all(performance.now()).map(({ signed, ageMs }) => {
      const { device } = signed.record
      return { signed, ageMs: device === self || node.isMember(device) ? 0 : ageMs }
    })
    const graces = { absentMs: config.absentMs, repairMs: config.repairMs }
    const key = [
      JSON.stringify([policy().claims, replicaStates(store.all()), this.adopting?.record.backup]),
      ...records.map(({ signed, ageMs }) =>
        [contentOf(signed), ageMs <= graces.absentMs, ageMs <= graces.repairMs].join(' '),
      ),
    ].join('\n')
    if (key === this.#surveyed.key && performance.now() - this.#surveyed.atMs < SURVEY_MS) return
    this.#surveyed = { key, atMs: performance.now() }
    this.#survey = surveyBackups({
      self,
      records,
      replicas: store.all(),
      told: this.adopting === undefined ? [] : [this.adopting],
      policy: policy(),
      graces,
    })
  }

  /** One device may not fill the places of all: of each that began repositories two are held, and those that are held already. */
  #mayHoldMore(repository: string): boolean {
    const { store } = this.#deps
    const { device } = parseRepositoryName(repository)
    if (store.get(repository) !== undefined) return true
    return store.all().filter((one) => parseRepositoryName(one.repository).device === device).length < MOST_LINES
  }

  /** Fetches what is new of a repository that this device should hold. */
  async #hold(repository: string, known: SurveyedRepository): Promise<void> {
    const { store, config, log } = this.#deps
    const before = store.get(repository)
    const isBehind =
      before === undefined ||
      before.files === undefined ||
      before.head.list !== known.head.list ||
      before.head.epoch !== known.head.epoch
    if (!isBehind && percentOf(before) === 100) return store.setClocks(repository, { surplusSeconds: 0 })
    const sources = this.sourcesOf(repository)
    if (sources.length === 0) return
    if (isBehind) {
      const list = await this.#fetchList(repository, known, sources)
      if (list === undefined) return
      const dropped = await store.take(known.record, list, config.deleteSeconds)
      if (dropped > ALARM_SHARE) {
        const share = Math.round(dropped * 100)
        this.#note(
          repository,
          'error',
          'backup-shrunk',
          `its newest list drops ${share} % of what is held here; it stays for ${Math.round(config.deleteSeconds / 3_600)} h`,
        )
      } else log.add('debug', 'replica-head', { repository, seq: known.head.seq })
    }
    const replica = store.get(repository)
    if (replica !== undefined) await this.#fetch(replica, sources)
  }

  async #fetchList(
    repository: string,
    { head }: SurveyedRepository,
    sources: readonly PieceSource[],
  ): Promise<Uint8Array | undefined> {
    for (const { ask } of sources) {
      const asker = await ask().catch(() => undefined)
      if (asker === undefined) continue
      try {
        const parts: Uint8Array[] = []
        const what = { repository, kind: 'list' as const, sha256: head.list }
        for await (const piece of asker.pieces(what, 0, head.listBytes)) parts.push(piece)
        return Buffer.concat(parts)
      } catch (error) {
        if (!(error instanceof FlotillaError)) throw error // this one does not have it
      } finally {
        await asker.close()
      }
    }
    return undefined
  }

  async #fetch(replica: Replica, sources: readonly PieceSource[]): Promise<void> {
    const { store, config, log, signal, isBusy, onMoved, node } = this.#deps
    const { repository, head, owner } = replica
    const missing = (replica.files ?? [])
      .filter((file) => !replica.have.has(pathOf(file)))
      .sort((a, b) => ORDER.indexOf(a.kind) - ORDER.indexOf(b.kind))
    if (missing.length === 0) return
    const room = this.#freeBytes
    const whole = totalBytes(replica.files ?? [])
    // With what waits for the end of its grace: an owner that lists other files again and again takes up no more.
    const wanted = store.diskBytes(repository) + totalBytes(missing)
    const isTooMuch = Math.max(whole, wanted) > config.mostBytes || (replica.files ?? []).length > mostFiles(whole)
    if (!this.#adopts(repository) && (totalBytes(missing) > room || isTooMuch)) {
      this.#note(
        repository,
        'warn',
        'replica-full',
        `it needs ${totalBytes(missing)} bytes more, ${room} are free for replicas`,
      )
      if (store.diskBytes(repository) === 0) await store.remove(repository)
      return
    }
    const rate = Math.min(config.bytesPerSecond, head.bytesPerSecond === 0 ? Infinity : head.bytesPerSecond)
    this.#rate.setRate(rate, performance.now())
    const startedMs = performance.now()
    let fetchedBytes = 0
    const lacking = await fetchFiles(missing, sources, {
      repository,
      keeper: {
        beginPart: (file) => store.beginPart(repository, file),
        keep: (file) => store.keep(repository, file),
      },
      rate: this.#rate,
      onBytes: (bytes, device) => {
        fetchedBytes += bytes
        onMoved('fetched', bytes, device)
      },
      onWrong: (device, file) => {
        this.#wrong.set(`${repository} ${device}`, performance.now() + WRONG_MS)
        dropOldest(this.#wrong, MAX_WRONG)
        log.add('warn', 'replica-wrong', { repository, device, file: pathOf(file) })
        node.toldBadNews(device)
      },
      pace: async () => {
        while (isBusy() && !signal.aborted) await pause(YIELD_MS)
      },
      signal,
    })
    const now = store.get(repository)
    if (lacking.length > 0 || now === undefined || percentOf(now) < 100) return
    this.#notes.delete(repository)
    log.add('info', 'replica-whole', {
      repository,
      owner: owner.name,
      seq: head.seq,
      bytes: fetchedBytes,
      ms: Math.round(performance.now() - startedMs),
    })
  }

  /** Another device should hold it: this one does until the others have it all, and a while longer. */
  async #letGo(repository: string, known: SurveyedRepository, seconds: number): Promise<void> {
    const { store, config, log } = this.#deps
    const replica = store.get(repository)
    if (replica === undefined) return
    const whole = new Set(wholeCopies(known, config.absentMs).map(({ device }) => device))
    const isCovered = known.holders.length >= known.head.copies && known.holders.every((device) => whole.has(device))
    const surplusSeconds = isCovered ? replica.clocks.surplusSeconds + seconds : 0
    store.setClocks(repository, { surplusSeconds })
    if (surplusSeconds < config.surplusSeconds) return
    await store.remove(repository)
    log.add('info', 'replica-returned', { repository, bytes: heldBytes(replica) })
  }

  async #age(seconds: number): Promise<void> {
    const { store, log } = this.#deps
    this.#unsavedSeconds += seconds
    const saves = this.#unsavedSeconds >= SAVE_SECONDS
    if (saves) this.#unsavedSeconds = 0
    for (const { repository } of store.all()) {
      const gone = await store.letTimePass(repository, seconds)
      if (gone.length > 0) log.add('info', 'replica-dropped', { repository, files: gone.length })
      const replica = store.get(repository)
      if (replica !== undefined && (saves || gone.length > 0)) await store.save(replica)
    }
  }

  /** Hashes what is held, slowly enough that a round takes as long as it may; what rotted is fetched again. */
  async #scrub(): Promise<void> {
    const { store, config, log, self } = this.#deps
    for (const replica of store.all()) {
      const { repository, clocks, files = [], head } = replica
      const present = files.filter((file) => replica.have.has(pathOf(file)))
      const allBytes = totalBytes(present)
      const isAccused = head.distrusted.includes(self) && this.#mayHurry(repository)
      const dueBytes = isAccused ? Infinity : (clocks.roundSeconds / config.scrubSeconds) * allBytes
      let done = 0
      for (const file of present) {
        done += file.lengthBytes
        if (done <= clocks.roundBytes) continue
        if (done > dueBytes || this.#deps.signal.aborted) break
        if ((await store.check(repository, file)) === 'bad') {
          log.add('error', 'bit-rot', { repository, file: pathOf(file) })
          this.#notes.set(repository, `${pathOf(file)} had rotted and is fetched again`)
        }
        store.setClocks(repository, { roundBytes: done })
        if (!isAccused) break // one at a time
      }
      if (allBytes > 0 && (store.get(repository)?.clocks.roundBytes ?? 0) >= allBytes)
        store.setClocks(repository, { roundBytes: 0, roundSeconds: 0, uncheckedSeconds: 0 })
    }
  }

  /** A holder that is not trusted hashes all that it has at once, but not again and again. */
  #mayHurry(repository: string): boolean {
    const lastMs = this.#hurriedMs.get(repository)
    if (lastMs !== undefined && performance.now() - lastMs < DISTRUST_MS) return false
    this.#hurriedMs.set(repository, performance.now())
    return true
  }

  #read(question: PieceQuestion): Promise<Uint8Array | undefined> {
    const { own, store, book, self } = this.#deps
    return readPiece(question, own, store, (repository) =>
      repository === own.state.repository
        ? book.get(self)?.bytes
        : (store.get(repository)?.record ?? this.#survey.get(repository)?.record),
    )
  }

  #adopts(repository: string): boolean {
    return this.adopting?.record.backup?.repository === repository
  }

  /** Told once, and shown until it is over. */
  #note(repository: string, level: 'warn' | 'error', event: string, text: string): void {
    if (this.#notes.get(repository) !== text) this.#deps.log.add(level, event, { repository, why: text })
    this.#notes.set(repository, text)
  }
}

/** restic's packs have 16 MiB, and small ones are few: a list of crumbs is no repository. */
function mostFiles(bytes: number): number {
  return 2_000 + bytes / 65_536
}

/** What a record says that a survey looks at; the sequence rises with every sign of life. */
const contents = new WeakMap<SignedRecord, string>()
function contentOf(signed: SignedRecord): string {
  const known = contents.get(signed)
  if (known !== undefined) return known
  const { device, labels, backup, holder } = signed.record
  const content = JSON.stringify([device, labels, backup, holder])
  contents.set(signed, content)
  return content
}
