import { createHash } from 'node:crypto'
import { closeSync, openSync, readSync } from 'node:fs'
import { isChunk, parseChunkIndex } from '../../protocol/chunks/chunk-index.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import type { Artifact, Release } from '../../protocol/release/description.ts'
import type { Repository } from './repository.ts'

/**
 * Matches every artifact of a release with its index and hash, as a device would after writing it.
 * @throws FlotillaError VERIFY_FAILED naming the artifact and the first chunk that is wrong
 */
export function verifyRelease(repository: Repository, release: Release): void {
  for (const artifact of release.description.artifacts) verifyArtifact(repository, artifact)
}

function verifyArtifact(repository: Repository, artifact: Artifact): void {
  const failed = (found: string, cause?: unknown): never => {
    throw new FlotillaError(
      'VERIFY_FAILED',
      `verify ${artifact.name}: ${found}; the repository is damaged, create the release again`,
      { cause },
    )
  }
  const bytes = repository.readBlob(artifact.index.sha256)
  if (bytes === undefined || createHash('sha256').update(bytes).digest('hex') !== artifact.index.sha256)
    return failed('its chunk index is missing or damaged')
  const index = parseChunkIndex(bytes)
  const whole = createHash('sha256')
  let file: number
  try {
    file = openSync(repository.artifactPath(artifact.sha256), 'r')
  } catch (cause) {
    return failed(messageOf(cause), cause)
  }
  try {
    for (let at = 0; at < index.count; at += 1) {
      const chunk = Buffer.allocUnsafe(index.lengths[at] ?? 0)
      readSync(file, chunk, 0, chunk.length, index.offsets[at] ?? 0)
      if (!isChunk(index, at, chunk)) failed(`chunk ${at} (at byte ${index.offsets[at]}) is not what the index says`)
      whole.update(chunk)
    }
  } finally {
    closeSync(file)
  }
  if (index.artifactBytes !== artifact.lengthBytes || whole.digest('hex') !== artifact.sha256)
    failed('the whole does not match the signed hash')
}
