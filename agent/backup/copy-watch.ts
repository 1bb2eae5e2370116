import { randomInt } from 'node:crypto'
import { isWholeCopy } from '../../protocol/backup/backup-head.ts'
import { pathOf, type RepositoryFile, totalBytes } from '../../protocol/backup/repository-list.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import type { TokenBucket } from '../../protocol/exchange/token-bucket.ts'
import { BACKUP_PROTOCOL, PieceAsker, type PieceQuestion } from '../../protocol/network/backup-exchange.ts'
import type { FleetNode } from '../../protocol/network/fleet-node.ts'
import type { EventLog } from '../control/event-log.ts'
import type { BackupConfig } from './backup-config.ts'
import { fetchFiles, type PieceSource } from './fetch-replica.ts'
import { hashFile } from './file-hash.ts'
import type { OwnRepository } from './own-repository.ts'
import type { Copy, SurveyedRepository } from './survey-backups.ts'

export type CopyWatchDeps = {
  readonly config: BackupConfig
  readonly own: OwnRepository
  readonly node: FleetNode
  /** What was heard of this device's own repository. */
  readonly known: () => SurveyedRepository | undefined
  readonly read: (question: PieceQuestion) => Promise<Uint8Array | undefined>
  readonly sourcesOf: (repository: string) => readonly PieceSource[]
  readonly rate: TokenBucket
  readonly onFetched: (bytes: number, device: string) => void
  /** Something about the repository that a person has to see to. */
  readonly tell: (repository: string, event: string, text: string) => void
  readonly log: EventLog
  readonly signal: AbortSignal
}

const PROOF_BYTES = 65_536
/** A holder that could not prove what it says is not counted for so long; then it is asked again. */
export const DISTRUST_MS = 3_600_000

/** Watches over this device's own repository: has holders prove their copies, and heals from them what rots here. */
export class CopyWatch {
  readonly #deps: CopyWatchDeps
  readonly #distrusted = new Map<string, number>()
  #proofMs = performance.now()
  #scrub = { at: 0, sinceMs: performance.now() }

  constructor(deps: CopyWatchDeps) {
    this.#deps = deps
  }

  /** Holders that could not prove what they say. */
  distrusted(): readonly string[] {
    for (const [device, untilMs] of this.#distrusted) if (untilMs < performance.now()) this.#distrusted.delete(device)
    return [...this.#distrusted.keys()]
  }

  async tick(): Promise<void> {
    await this.#proveCopies()
    await this.#scrubOwn()
  }

  /** Has each holder that is connected prove some bytes. */
  async #proveCopies(): Promise<void> {
    const { own, config, node, log, known } = this.#deps
    if (performance.now() - this.#proofMs < config.proofMs) return
    this.#proofMs = performance.now()
    const files = await own.files()
    if (files.length === 0) return
    // Also those that are not trusted: they may have mended it.
    const head = { ...own.state, distrusted: [] }
    const holders = (known()?.copies ?? []).filter(
      (copy) => isWholeCopy(head, copy.device, copy) && node.isMember(copy.device),
    )
    for (const holder of holders)
      await this.#prove(holder, files).catch((error: unknown) =>
        log.add('debug', 'proof-failed', { device: holder.device, error: messageOf(error) }),
      )
  }

  async #prove({ device, name }: Copy, files: readonly RepositoryFile[]): Promise<void> {
    const { own, node, log } = this.#deps
    const file = weighted(files)
    const offset = randomInt(Math.max(1, file.lengthBytes - PROOF_BYTES))
    const question: PieceQuestion = {
      repository: own.state.repository,
      kind: file.kind,
      sha256: file.sha256,
      offset,
      lengthBytes: Math.max(1, Math.min(PROOF_BYTES, file.lengthBytes - offset)),
    }
    const bytes = await this.#deps.read(question)
    if (bytes === undefined) return // gone here: the scrub sees to it
    const asker = new PieceAsker(await node.open(device, BACKUP_PROTOCOL))
    try {
      const answer = await asker.prove(question, bytes)
      if (answer === 'held') return void this.#distrusted.delete(device)
      // Rot on this side looks the same: the file is hashed before anybody is blamed.
      const ours = await hashFile(own.pathOf(file))
      if (ours?.sha256 !== file.sha256) return
      this.#distrusted.set(device, performance.now() + DISTRUST_MS)
      log.add('error', 'replica-not-proven', { device, name, file: pathOf(file), answer })
    } finally {
      await asker.close()
    }
  }

  /** Hashes this device's own repository in turn; what rotted comes back from a holder. */
  async #scrubOwn(): Promise<void> {
    const { own, config, log, signal } = this.#deps
    const files = await own.files()
    const perFileMs = (config.scrubSeconds * 1_000) / Math.max(1, files.length)
    if (files.length === 0 || performance.now() - this.#scrub.sinceMs < perFileMs) return
    const at = this.#scrub.at % files.length
    this.#scrub = { at: at + 1, sinceMs: performance.now() }
    const file = files[at]
    if (file === undefined || file.kind === 'config') return
    const found = await hashFile(own.pathOf(file)).catch(() => undefined)
    if (found?.sha256 === file.sha256) return
    if (!(await own.isListed(file))) return // pruned meanwhile
    log.add('error', 'bit-rot', { repository: own.state.repository, file: pathOf(file) })
    const part = `${own.pathOf(file)}.healing`
    const left = await fetchFiles([file], this.#deps.sourcesOf(own.state.repository), {
      repository: own.state.repository,
      keeper: {
        beginPart: async () => ({ path: part, haveBytes: 0 }),
        keep: () => own.replace(file, part),
      },
      rate: this.#deps.rate,
      onBytes: this.#deps.onFetched,
      onWrong: () => {},
      pace: async () => {},
      signal,
    })
    if (left.length === 0) log.add('warn', 'backup-healed', { file: pathOf(file) })
    else this.#deps.tell(own.state.repository, 'backup-rotten', `${pathOf(file)} rotted, and no holder in reach has it`)
  }
}

/** A file, the larger the more often. */
function weighted(files: readonly RepositoryFile[]): RepositoryFile {
  let left = randomInt(Math.max(1, Math.min(totalBytes(files), 2 ** 47)))
  for (const file of files) {
    left -= file.lengthBytes
    if (left < 0) return file
  }
  const [first] = files
  if (first === undefined) throw new FlotillaError('NOT_FOUND', 'choose a file: there is none')
  return first
}
