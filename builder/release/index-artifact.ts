import { createHash } from 'node:crypto'
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { pipe } from 'it-pipe'
import { type ChunkIndex, encodeChunkIndex } from '../../protocol/chunks/chunk-index.ts'
import { type Cut, cutArtifact } from '../../protocol/chunks/cut-artifact.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'

export type IndexedArtifact = { readonly lengthBytes: number; readonly sha256: string; readonly index: ChunkIndex }

/**
 * Cuts a file into chunks and hashes all of it in one pass. Memory: a few buffers, whatever the size.
 * @throws FlotillaError BAD_INPUT when the file cannot be read or changes while it is read
 */
export function indexArtifact(path: string, onProgress: (bytes: number) => void = () => {}): IndexedArtifact {
  let file: number
  try {
    file = openSync(path, 'r')
  } catch (cause) {
    throw new FlotillaError('BAD_INPUT', `read artifact ${path}: ${messageOf(cause)}`, { cause })
  }
  try {
    const { size } = fstatSync(file)
    const whole = createHash('sha256')
    const read = (offset: number, lengthBytes: number) => {
      const buffer = Buffer.allocUnsafe(Math.max(0, Math.min(lengthBytes, size - offset)))
      const got = readSync(file, buffer, 0, buffer.length, offset)
      if (got !== buffer.length)
        throw new FlotillaError('BAD_INPUT', `read artifact ${path}: it became shorter while it was read`)
      return buffer
    }
    const chunks = pipe(
      cutArtifact(read, size),
      function* hash(cuts: Iterable<Cut>) {
        for (const { bytes } of cuts) {
          whole.update(bytes)
          onProgress(bytes.length)
          yield { sha256: createHash('sha256').update(bytes).digest(), lengthBytes: bytes.length }
        }
      },
      (source: Iterable<{ sha256: Uint8Array; lengthBytes: number }>) => [...source],
    )
    return { lengthBytes: size, sha256: whole.digest('hex'), index: encodeChunkIndex(chunks) }
  } finally {
    closeSync(file)
  }
}
