import { type ChunkIndex, parseChunkIndex } from '../../protocol/chunks/chunk-index.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import { MAX_DESCRIPTION_BYTES, parseRelease, type Release } from '../../protocol/release/description.ts'
import type { SignedPointer } from '../../protocol/release/find-release.ts'
import type { BlobStore } from './blob-store.ts'

/** Gets a small file from any peer that has it. */
export type FetchBlob = (sha256: string, maxBytes: number) => Promise<Uint8Array | undefined>

/** Gets the small files of a release: its description and the chunk indexes; keeps them as blobs. */
export class ReleaseFetcher {
  readonly #blobs: BlobStore
  readonly #fetchBlob: FetchBlob

  constructor(blobs: BlobStore, fetchBlob: FetchBlob) {
    this.#blobs = blobs
    this.#fetchBlob = fetchBlob
  }

  /** The description that signed metadata points to, or undefined while nobody connected has it. */
  async description(pointer: SignedPointer): Promise<Release | undefined> {
    const limit = Math.min(pointer.lengthBytes, MAX_DESCRIPTION_BYTES)
    const bytes = await this.#get(pointer.sha256, limit)
    return bytes === undefined ? undefined : parseRelease(bytes)
  }

  /**
   * The chunk index of every artifact, by index hash, or undefined while one cannot be had.
   * @throws FlotillaError BAD_INDEX when an index does not describe its artifact: the release was made wrongly
   */
  async indexes(release: Release): Promise<ReadonlyMap<string, ChunkIndex> | undefined> {
    const indexes = new Map<string, ChunkIndex>()
    for (const artifact of release.description.artifacts) {
      const bytes = await this.#get(artifact.index.sha256, artifact.index.lengthBytes)
      if (bytes === undefined) return undefined
      const index = parseChunkIndex(bytes)
      if (index.artifactBytes !== artifact.lengthBytes) {
        throw new FlotillaError(
          'BAD_INDEX',
          `${artifact.name}: its index covers ${index.artifactBytes} bytes, the release says ${artifact.lengthBytes}`,
        )
      }
      indexes.set(index.id, index)
    }
    return indexes
  }

  async #get(sha256: string, maxBytes: number): Promise<Uint8Array | undefined> {
    const held = await this.#blobs.read(sha256)
    if (held !== undefined) return held
    const bytes = await this.#fetchBlob(sha256, maxBytes)
    if (bytes !== undefined) await this.#blobs.write(bytes)
    return bytes
  }
}
