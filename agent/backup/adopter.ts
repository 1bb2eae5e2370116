import { type BackupHead, newestOf } from '../../protocol/backup/backup-head.ts'
import type { RepositoryClaim } from '../../protocol/backup/repository-claim.ts'
import { type SealPair, unseal } from '../../protocol/backup/seal.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { parseRecord, type SignedRecord } from '../../protocol/gossip/device-record.ts'
import type { RecordBook } from '../../protocol/gossip/record-book.ts'
import type { FleetPolicy } from '../../protocol/membership/fleet-policy.ts'
import { BACKUP_PROTOCOL, PieceAsker } from '../../protocol/network/backup-exchange.ts'
import type { FleetNode } from '../../protocol/network/fleet-node.ts'
import { parseJson, shape } from '../../protocol/shape.ts'
import type { EventLog } from '../control/event-log.ts'
import type { Disk } from '../store/disk.ts'
import { GenerationFile } from '../store/generation-file.ts'
import type { BackupKeeper } from './backup-keeper.ts'
import { readFacts } from './restore-backup.ts'
import { bringCoreFile } from './bring-core-file.ts'
import type { OwnRepository } from './own-repository.ts'
import type { ReplicaKeeper } from './replica-keeper.ts'
import { percentOf, type ReplicaStore } from './replica-store.ts'
import { repeat } from './repeat.ts'
import { Restic } from './restic.ts'

export type AdopterDeps = {
  readonly self: string
  readonly sealPair: SealPair
  readonly policy: () => Pick<FleetPolicy, 'claims'>
  readonly own: OwnRepository
  readonly keeper: BackupKeeper
  readonly replicas: ReplicaKeeper
  readonly store: ReplicaStore
  readonly node: FleetNode
  readonly book: RecordBook
  readonly persist: Disk
  /** `/mnt/persist/skiff/core`, where this device's own `skiff-core.yaml` lies. */
  readonly coreDirectory: string
  readonly poke: () => void
  readonly log: EventLog
  readonly signal: AbortSignal
}

/** How far this device is with what it takes over. */
type AdoptState = {
  /** Claims that were carried out: `repository epoch`. */
  readonly done: readonly string[]
  /** Containers that are still to be restored. */
  readonly left: readonly string[]
  /** The claim whose repository is being made this device's own, and the sequence of its head; empty when none is. */
  readonly taking: string
  readonly seq: number
}

const TICK_MS = 3_000
const RETRY_MS = 60_000
const MAX_STATE = 65_536
const NOTHING: AdoptState = { done: [], left: [], taking: '', seq: 0 }

/**
 * Takes over the repository of a device that is gone, when a signed claim says so: fetches it from all holders, opens it with the
 * password that is sealed to this device, restores its containers. And the other way round: gives up a repository that a claim
 * gives to another device.
 */
export class Adopter {
  readonly #deps: AdopterDeps
  readonly #file: GenerationFile
  #state = NOTHING
  #note = ''
  #retryMs = 0
  #running: Promise<void> = Promise.resolve()

  constructor(deps: AdopterDeps) {
    this.#deps = deps
    this.#file = new GenerationFile(deps.persist, 'backup/adopt', MAX_STATE)
  }

  async start(): Promise<void> {
    const bytes = await this.#file.read()
    if (bytes !== undefined) this.#state = parseAdoptState(bytes)
    this.#running = repeat(
      () => this.#try(),
      () => TICK_MS,
      this.#deps.signal,
    )
  }

  /** Once the signal ended it. */
  async stop(): Promise<void> {
    await this.#running
  }

  async #try(): Promise<void> {
    if (performance.now() < this.#retryMs) return
    try {
      await this.#tick()
    } catch (error) {
      if (this.#deps.signal.aborted) return
      this.#retryMs = performance.now() + RETRY_MS
      if (this.#note !== messageOf(error)) this.#deps.log.add('error', 'adopt-failed', { error: messageOf(error) })
      this.#note = messageOf(error)
    }
  }

  /** For a person: what is taken over, or was given away; empty when nothing. */
  get note(): string {
    return this.#note
  }

  async #tick(): Promise<void> {
    const { own, policy, self, keeper } = this.#deps
    const { claims } = policy()
    const given = claims.find(({ repository, epoch }) => repository === own.state.repository && epoch > own.state.epoch)
    if (given !== undefined && given.to !== self && this.#state.taking !== keyOf(given)) {
      await keeper.alone('give up', () => own.fence(given.to))
      this.#note = `${given.repository} was given to ${given.to}; backups of this device go to ${own.state.repository} now`
    }
    const claim = claims.find((one) => one.to === self && !this.#state.done.includes(keyOf(one)))
    if (claim !== undefined) await this.#adopt(claim)
    if (this.#state.left.length > 0) await this.#restore()
  }

  async #adopt(claim: RepositoryClaim): Promise<void> {
    const { own, replicas, store, sealPair, keeper, log, signal } = this.#deps
    const { repository, epoch } = claim
    const password = unseal(claim.sealed, sealPair.secret)
    // From the moment that it is being moved there is no replica any more: it goes on where it was cut off.
    if (this.#state.taking !== keyOf(claim)) {
      if (replicas.adopting?.record.backup?.repository !== repository) replicas.adopting = await this.#findHead(claim)
      if (replicas.adopting === undefined) {
        this.#note = `takes over ${repository}: nobody in reach holds it yet`
        return
      }
      const replica = store.get(repository)
      if (replica === undefined || percentOf(replica) < 100) {
        this.#note = `takes over ${repository}: ${replica === undefined ? 0 : percentOf(replica)} % here`
        return
      }
      this.#note = `takes over ${repository}: checking it`
      await this.#checkWhole(repository, password)
      await this.#save({ ...this.#state, taking: keyOf(claim), seq: replica.head.seq })
    }
    await keeper.alone('take over', async () => {
      await replicas.whileStill(async () => {
        await own.takeOver(store.pathOf(repository), password, { repository, epoch, seq: this.#state.seq })
        await store.forget(repository)
        replicas.adopting = undefined
      })
      const containers = [...new Set((await keeper.list()).map(({ container }) => container))]
      await this.#save({ done: [...this.#state.done, keyOf(claim)].slice(-256), left: containers, taking: '', seq: 0 })
      log.add('info', 'adopted', { repository, epoch, containers: containers.join(', ') })
      // Told from now on, so that holders follow this device.
      await own.publish(signal)
    })
  }

  /** The password fits, and every pack that the index names is there. The hashes of all files were checked when they came. */
  async #checkWhole(repository: string, password: string): Promise<void> {
    const { own, store, signal } = this.#deps
    await own.withPasswordFile(password, (file) => new Restic(store.pathOf(repository), file).check(false, { signal }))
  }

  /** The newest head that the device told whose the repository was, as far as somebody in reach has it. */
  async #findHead({ repository, from, fromEpoch }: RepositoryClaim): Promise<SignedRecord | undefined> {
    const { book, node, store } = this.#deps
    const holders = book
      .all(performance.now())
      .filter(({ signed }) => signed.record.holder?.replicas.some((one) => one.repository === repository))
      .map(({ signed }) => signed.record.device)
    for (const device of holders) if (!node.isMember(device)) node.seek(device)
    const found: { readonly head: BackupHead; readonly record: SignedRecord }[] = []
    const add = (bytes: Uint8Array | undefined) => {
      if (bytes === undefined) return
      const record = parseRecord(bytes)
      const head = record.record.backup
      if (head?.repository !== repository) return
      // Anybody may hold a replica; what is in it only its owner says.
      if (record.record.device !== from || head.epoch !== fromEpoch) return
      found.push({ head, record })
    }
    add(store.get(repository)?.record)
    for (const { signed } of book.all(performance.now())) if (signed.record.device === from) add(signed.bytes)
    for (const device of holders.filter((one) => node.isMember(one))) {
      try {
        const asker = new PieceAsker(await node.open(device, BACKUP_PROTOCOL))
        add(await asker.head(repository))
        await asker.close()
      } catch (error) {
        if (!(error instanceof FlotillaError)) throw error // another holder may be of more use
      }
    }
    return newestOf(found, ({ head }) => head)?.record
  }

  async #restore(): Promise<void> {
    const { keeper, own, coreDirectory, poke, log, signal } = this.#deps
    const failures: string[] = []
    for (const container of this.#state.left) {
      signal.throwIfAborted()
      this.#note = `restores ${container}`
      try {
        const newest = (await keeper.list(container)).at(-1)
        if (newest !== undefined) {
          const facts = await readFacts(own.restic, newest.id, signal)
          if (await bringCoreFile(coreDirectory, container, facts, () => keeper.coreFile())) poke()
          await this.#restoreOne(container)
        }
        await this.#save({ ...this.#state, left: this.#state.left.filter((name) => name !== container) })
      } catch (error) {
        if (signal.aborted) throw error
        failures.push(`${container}: ${messageOf(error)}`)
        log.add('error', 'adopt-restore-failed', { container, error: messageOf(error) })
      }
    }
    this.#note = failures.length === 0 ? `took over ${own.state.repository}` : failures.join('; ')
    if (failures.length > 0) this.#retryMs = performance.now() + RETRY_MS
    // What was restored is what is backed up from now on, under this device's name.
    else await keeper.alone('publish', () => own.publish(signal))
  }

  /** Without the image that it was saved on, volumes and mounts are still worth having. */
  async #restoreOne(container: string): Promise<void> {
    const { keeper, log } = this.#deps
    const first = await (await keeper.restore(container, undefined, false)).ended
    if (first.state === 'done') return
    if (first.code !== 'NOT_FOR_THIS_DEVICE') throw new FlotillaError('UNEXPECTED', first.result)
    log.add('error', 'adopt-without-layer', { container, why: first.result })
    const second = await (await keeper.restore(container, undefined, true)).ended
    if (second.state !== 'done') throw new FlotillaError('UNEXPECTED', second.result)
  }

  async #save(state: AdoptState): Promise<void> {
    await this.#file.write(Buffer.from(JSON.stringify(state)))
    this.#state = state
  }
}

function keyOf({ repository, epoch }: RepositoryClaim): string {
  return `${repository} ${epoch}`
}

/** @throws FlotillaError FORMAT, LENGTH */
function parseAdoptState(bytes: Uint8Array): AdoptState {
  const json = shape.object(parseJson(bytes, 'backup/adopt', MAX_STATE), 'backup/adopt')
  const texts = (key: string) =>
    shape.array(json[key], `backup/adopt: ${key}`, 1_000).map((one) => shape.string(one, `backup/adopt: ${key}`, 256))
  return {
    done: texts('done'),
    left: texts('left'),
    taking: shape.string(json['taking'], 'backup/adopt: taking', 256),
    seq: shape.integer(json['seq'], 'backup/adopt: seq', 0),
  }
}
