import { createHash } from 'node:crypto'
import { open, rm } from 'node:fs/promises'
import { setTimeout as pause } from 'node:timers/promises'
import { pathOf, type RepositoryFile } from '../../protocol/backup/repository-list.ts'
import { TokenBucket } from '../../protocol/exchange/token-bucket.ts'
import { FlotillaError, isFlotillaError } from '../../protocol/errors.ts'
import type { PieceAsker } from '../../protocol/network/backup-exchange.ts'

/** Where files come from: a device, and a way to ask it. */
export type PieceSource = { readonly device: string; readonly ask: () => Promise<PieceAsker> }

/** Where they are kept until they are whole. */
export type FileKeeper = {
  readonly beginPart: (file: RepositoryFile) => Promise<{ readonly path: string; readonly haveBytes: number }>
  readonly keep: (file: RepositoryFile) => Promise<void>
}

export type FetchDeps = {
  readonly repository: string
  readonly keeper: FileKeeper
  /** Bytes per second, all sources together. */
  readonly rate: TokenBucket
  /** Called with every piece. */
  readonly onBytes: (bytes: number, device: string) => void
  /** The peer sent what is not the file. */
  readonly onWrong: (device: string, file: RepositoryFile) => void
  /** Waits while something else is more urgent. */
  readonly pace: () => Promise<void>
  readonly signal: AbortSignal
}

/** Written out to the medium after so many bytes: a cut costs no more. */
const FLUSH_BYTES = 16 * 2 ** 20
const LOOK_AGAIN_MS = 500

/**
 * Fetches files from all sources at once, each file from one of them, and keeps each once its hash is right. A source that lacks a
 * file, sends another, or goes away costs nothing but its turn.
 * @param files - in the order in which they are wanted
 * @returns the files that no source had
 * @throws FlotillaError NOT_ENOUGH_SPACE, DISK_FAILED; the signal's reason
 */
export async function fetchFiles(
  files: readonly RepositoryFile[],
  sources: readonly PieceSource[],
  deps: FetchDeps,
): Promise<readonly RepositoryFile[]> {
  const left = new Map(files.map((file) => [pathOf(file), file]))
  const busy = new Set<string>()
  const failures: unknown[] = []
  const work = async ({ device, ask }: PieceSource) => {
    let asker = await ask().catch(() => undefined)
    if (asker === undefined) return
    const missing = new Set<string>()
    try {
      for (;;) {
        if (deps.signal.aborted || failures.length > 0) return
        const next = [...left].find(([path]) => !busy.has(path) && !missing.has(path))
        if (next === undefined) return
        const [path, file] = next
        busy.add(path)
        try {
          if (await fetchFile(file, device, asker, deps)) left.delete(path)
          else {
            missing.add(path)
            // Answers to what was asked ahead are still on their way.
            await asker.close()
            asker = await ask().catch(() => undefined)
            if (asker === undefined) return
          }
        } catch (error) {
          if (isFlotillaError(error, 'UNREACHABLE') || isFlotillaError(error, 'TIMEOUT')) return
          failures.push(error)
          return
        } finally {
          busy.delete(path)
        }
      }
    } finally {
      await asker?.close()
    }
  }
  await Promise.all(sources.map(work))
  deps.signal.throwIfAborted()
  if (failures.length > 0) throw failures[0]
  return [...left.values()]
}

/** @returns false when the source does not have it, or has something else */
async function fetchFile(file: RepositoryFile, device: string, asker: PieceAsker, deps: FetchDeps): Promise<boolean> {
  const { path, haveBytes } = await deps.keeper.beginPart(file)
  const handle = await open(path, haveBytes === 0 ? 'w' : 'r+').catch(explainDisk(path))
  const hash = createHash('sha256')
  let done = 0
  try {
    const buffer = Buffer.allocUnsafe(1_048_576)
    while (done < haveBytes) {
      const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, haveBytes - done), done)
      if (bytesRead === 0) break
      hash.update(buffer.subarray(0, bytesRead))
      done += bytesRead
    }
    let unflushed = 0
    const what = { repository: deps.repository, kind: file.kind, sha256: file.sha256 }
    for await (const piece of asker.pieces(what, done, file.lengthBytes)) {
      await handle.write(piece, 0, piece.length, done).catch(explainDisk(path))
      hash.update(piece)
      done += piece.length
      unflushed += piece.length
      deps.onBytes(piece.length, device)
      if (unflushed >= FLUSH_BYTES) {
        await handle.sync().catch(explainDisk(path))
        unflushed = 0
      }
      deps.rate.take(piece.length, performance.now())
      for (let ms = deps.rate.waitMs(performance.now()); ms > 0; ms = deps.rate.waitMs(performance.now())) {
        deps.signal.throwIfAborted()
        await pause(Math.min(ms, LOOK_AGAIN_MS))
      }
      await deps.pace()
      deps.signal.throwIfAborted()
    }
    await handle.sync().catch(explainDisk(path))
  } catch (error) {
    if (isFlotillaError(error, 'MISSING')) return false
    throw error
  } finally {
    await handle.close()
  }
  if (hash.digest('hex') !== file.sha256) {
    await rm(path, { force: true })
    // The beginning may have come from somebody else.
    if (haveBytes > 0) return fetchFile(file, device, asker, deps)
    deps.onWrong(device, file)
    return false
  }
  await deps.keeper.keep(file)
  return true
}

function explainDisk(path: string) {
  return (cause: NodeJS.ErrnoException): never => {
    const full = cause.code === 'ENOSPC' || cause.code === 'EDQUOT'
    throw new FlotillaError(full ? 'NOT_ENOUGH_SPACE' : 'DISK_FAILED', `write ${path}: ${cause.message}`, { cause })
  }
}
