import { chunkHash, parseChunkIndex, indexBytes } from '../../protocol/chunks/chunk-index.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import type { Release } from '../../protocol/release/description.ts'
import type { Repository } from './repository.ts'

/** What a device with one release must fetch for another, artifact by artifact. Bytes. */
export type ArtifactDiff = {
  readonly name: string
  readonly lengthBytes: number
  readonly fetchBytes: number
  readonly indexBytes: number
}

/** Counts the chunks of `to` that no artifact of `from` holds; a chunk that occurs twice is fetched once. */
export function diffReleases(repository: Repository, from: Release | undefined, to: Release): readonly ArtifactDiff[] {
  const held = new Set<string>()
  for (const artifact of from?.description.artifacts ?? [])
    for (const hash of hashesOf(repository, artifact.index.sha256).keys()) held.add(hash)
  return to.description.artifacts.map((artifact) => {
    let fetchBytes = 0
    const hashes = hashesOf(repository, artifact.index.sha256)
    for (const [hash, length] of hashes) {
      if (held.has(hash)) continue
      held.add(hash)
      fetchBytes += length
    }
    return { name: artifact.name, lengthBytes: artifact.lengthBytes, fetchBytes, indexBytes: indexBytes(hashes.size) }
  })
}

function hashesOf(repository: Repository, indexId: string): Map<string, number> {
  const bytes = repository.readBlob(indexId)
  if (bytes === undefined)
    throw new FlotillaError('MISSING', `read chunk index ${indexId.slice(0, 16)}…: it is not in the repository`)
  const index = parseChunkIndex(bytes)
  const hashes = new Map<string, number>()
  for (let at = 0; at < index.count; at += 1) hashes.set(chunkHash(index, at), index.lengths[at] ?? 0)
  return hashes
}
