import { withTag } from '../../protocol/core/image-name.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import type { Artifact, ContainerImage, Release } from '../../protocol/release/description.ts'
import type { ReleasePointer } from '../../protocol/release/find-release.ts'
import type { ArtifactStore } from '../store/artifact-store.ts'
import type { Disk } from '../store/disk.ts'
import type { ReleaseFetcher } from '../store/release-fetcher.ts'
import type { ChunkSource } from '../slots/write-release.ts'

/** An image that a signed release has, and the artifact that it is in. */
export type SignedImage = { readonly image: ContainerImage; readonly artifact: Artifact; readonly release: Release }

export type SignedImagesDeps = {
  readonly running: () => Release | undefined
  /** Releases of all boards and channels that are signed now and not halted. */
  readonly pointers: () => readonly ReleasePointer[]
  readonly fetcher: ReleaseFetcher
  readonly store: ArtifactStore
  readonly chunks: ChunkSource
  readonly persist: Disk
}

/** Where images lie that came from a release of another board, until the engine has them. */
const DIRECTORY = 'images'
/** After the device's own release, before what it only carries. */
const PRIORITY = 5
const STALL_MS = 120_000

/** Images of signed releases: the one that runs, and those that a peer may have for other boards of the same architecture. */
export class SignedImages {
  readonly #deps: SignedImagesDeps

  constructor(deps: SignedImagesDeps) {
    this.#deps = deps
  }

  /** The image of that name in the release that runs. */
  released(name: string): SignedImage | undefined {
    const release = this.#deps.running()
    return release && imageIn(release, name)
  }

  /** The newest image of that name for that architecture in any signed release whose description is to be had. */
  async find(name: string, architecture: string): Promise<SignedImage | undefined> {
    const found: SignedImage[] = []
    for (const pointer of this.#deps.pointers()) {
      if (pointer.halted !== undefined) continue
      const release = await this.#deps.fetcher.description(pointer)
      const image = release && imageIn(release, name)
      if (image?.image.architecture === architecture) found.push(image)
    }
    return found.sort((a, b) => (a.release.description.issued < b.release.description.issued ? 1 : -1))[0]
  }

  /**
   * Fetches the archive of a signed image from peers, every chunk verified, and the whole once more.
   * @returns its path on persist
   * @throws FlotillaError MISSING when no peer has its index, NOT_ENOUGH_SPACE, VERIFY_FAILED; the signal's reason
   */
  async fetch(
    { artifact, release, image }: SignedImage,
    onProgress: (text: string) => void,
    signal: AbortSignal,
  ): Promise<string> {
    const { fetcher, store, chunks, persist } = this.#deps
    const index = (await fetcher.indexes(release))?.get(artifact.index.sha256)
    const what = `fetch image ${image.name} from peers`
    if (index === undefined) throw new FlotillaError('MISSING', `${what}: nobody in reach has its index`)
    const path = `${DIRECTORY}/${artifact.sha256}`
    const file = await store.begin(index, persist, path)
    const stalled = new AbortController()
    let last = { count: file.have.count, atMs: performance.now() }
    const told = setInterval(() => {
      const { count, size } = file.have
      onProgress(`fetching from peers: ${Math.floor((count * 100) / Math.max(1, size))} %`)
      if (count !== last.count) last = { count, atMs: performance.now() }
      // What is here is kept; meanwhile a registry or a build may have it, and other images wait.
      else if (performance.now() > last.atMs + STALL_MS)
        stalled.abort(new FlotillaError('TIMEOUT', `${what}: no chunk came for ${STALL_MS / 1_000} s`))
    }, 500)
    try {
      chunks.foundLocally(await store.fillFromDevice(file))
      chunks.want(index, store.holds(index), PRIORITY)
      await chunks.completed(file, AbortSignal.any([signal, stalled.signal]))
      const wrong = await store.verify(file, artifact.sha256)
      if (wrong.length > 0)
        throw new FlotillaError('VERIFY_FAILED', `${what}: ${wrong.length} chunks do not read back as written`)
    } finally {
      clearInterval(told)
    }
    return path
  }

  /** The engine has it: the archive is not needed twice. */
  async forget({ artifact }: SignedImage): Promise<void> {
    const { store, chunks, persist } = this.#deps
    const path = `${DIRECTORY}/${artifact.sha256}`
    for (const file of store.files(artifact.index.sha256)) if (file.path === path) await store.drop(file)
    if (store.files(artifact.index.sha256).length === 0) chunks.forget(artifact.index.sha256)
    await persist.remove(path)
  }
}

/** Digests of all images that releases bring. */
export function imageDigests(releases: readonly Release[]): ReadonlySet<string> {
  const artifacts = releases.flatMap(({ description }) => description.artifacts)
  return new Set(artifacts.flatMap(({ image }) => image?.digest ?? []))
}

function imageIn(release: Release, name: string): SignedImage | undefined {
  for (const artifact of release.description.artifacts)
    if (artifact.image?.name === withTag(name)) return { image: artifact.image, artifact, release }
  return undefined
}
