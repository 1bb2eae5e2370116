import { type FileHandle, open } from 'node:fs/promises'
import { type ChunkIndex, isChunk, parseChunkIndex } from '../../protocol/chunks/chunk-index.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import type { ChunkStore } from '../../protocol/network/exchange-driver.ts'
import type { Release } from '../../protocol/release/description.ts'
import type { Repository } from '../release/repository.ts'

/** Serves the artifacts of releases from a repository. Read only. */
export class RepositoryStore implements ChunkStore {
  readonly #repository: Repository
  readonly #artifacts = new Map<string, { readonly index: ChunkIndex; readonly sha256: string }>()
  readonly #files = new Map<string, Promise<FileHandle>>()

  constructor(repository: Repository, releases: readonly Release[]) {
    this.#repository = repository
    for (const artifact of releases.flatMap((release) => release.description.artifacts)) {
      const bytes = repository.readBlob(artifact.index.sha256)
      if (bytes === undefined)
        throw new FlotillaError('MISSING', `seed: the chunk index of ${artifact.name} is not in the repository`)
      const index = parseChunkIndex(bytes)
      this.#artifacts.set(index.id, { index, sha256: artifact.sha256 })
    }
  }

  /** Indexes of all artifacts that can be served. */
  indexes(): readonly ChunkIndex[] {
    return [...this.#artifacts.values()].map(({ index }) => index)
  }

  async readChunk(artifact: string, chunk: number): Promise<Uint8Array | 'rotten' | 'gone'> {
    const entry = this.#artifacts.get(artifact)
    if (entry === undefined) return 'gone'
    const file = await this.#open(entry.sha256)
    const bytes = Buffer.allocUnsafe(entry.index.lengths[chunk] ?? 0)
    await file.read(bytes, 0, bytes.length, entry.index.offsets[chunk] ?? 0)
    return isChunk(entry.index, chunk, bytes) ? bytes : 'rotten'
  }

  storeChunk(): Promise<'bad'> {
    return Promise.resolve('bad') // nothing is ever asked for
  }

  readBlob(sha256: string): Promise<Uint8Array | undefined> {
    return Promise.resolve(this.#repository.readBlob(sha256))
  }

  async close(): Promise<void> {
    for (const file of this.#files.values()) await (await file).close()
    this.#files.clear()
  }

  #open(sha256: string): Promise<FileHandle> {
    const known = this.#files.get(sha256) ?? open(this.#repository.artifactPath(sha256), 'r')
    this.#files.set(sha256, known)
    return known
  }
}
