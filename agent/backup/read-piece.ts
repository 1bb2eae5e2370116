import { open } from 'node:fs/promises'
import type { PieceQuestion } from '../../protocol/network/backup-exchange.ts'
import type { OwnRepository } from './own-repository.ts'
import type { ReplicaStore } from './replica-store.ts'

/**
 * Reads what a peer may be given: of this device's own repository, and of those that it holds for others.
 * @param recordOf - the record that tells of a repository, as far as it was heard
 * @returns undefined when it is not here; short at its end
 */
export async function readPiece(
  { repository, kind, sha256, offset, lengthBytes }: PieceQuestion,
  own: OwnRepository,
  store: ReplicaStore,
  recordOf: (repository: string) => Uint8Array | undefined,
): Promise<Uint8Array | undefined> {
  const isOwn = repository === own.state.repository
  if (kind === 'head') return recordOf(repository)
  if (kind === 'list') {
    const list = await (isOwn ? own.readList(sha256) : store.readList(repository, sha256))
    return list?.subarray(offset, offset + lengthBytes)
  }
  if (!isOwn && store.get(repository) === undefined) return undefined
  const path = isOwn ? own.pathOf({ kind, sha256 }) : store.pathOf(repository, { kind, sha256 })
  const file = await open(path, 'r').catch(() => undefined)
  if (file === undefined) return undefined
  try {
    const buffer = Buffer.allocUnsafe(lengthBytes)
    const { bytesRead } = await file.read(buffer, 0, lengthBytes, offset)
    return buffer.subarray(0, bytesRead)
  } finally {
    await file.close()
  }
}
