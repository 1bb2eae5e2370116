import type { ArtifactStore, HeldFile } from './artifact-store.ts'
import type { StoredChunk } from '../../protocol/network/exchange-driver.ts'

type Waiter = { readonly file: HeldFile; readonly resolve: () => void; readonly reject: (error: unknown) => void }

/** Lets a part wait until a file is complete, whoever completes it: a peer or another file on this device. */
export class FileCompletion {
  readonly #store: ArtifactStore
  readonly #foundLocally: (chunks: readonly StoredChunk[]) => void
  #waiters: Waiter[] = []

  constructor(store: ArtifactStore, foundLocally: (chunks: readonly StoredChunk[]) => void) {
    this.#store = store
    this.#foundLocally = foundLocally
  }

  /** Resolves when every chunk of the file is written and flushed. @throws the signal's reason, or the store's failure */
  wait(file: HeldFile, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const abort = () => waiter.reject(signal.reason)
      const done = (finish: () => void) => {
        signal.removeEventListener('abort', abort)
        this.#waiters = this.#waiters.filter((other) => other !== waiter)
        finish()
      }
      const waiter: Waiter = { file, resolve: () => done(resolve), reject: (error) => done(() => reject(error)) }
      signal.addEventListener('abort', abort)
      this.#waiters.push(waiter)
      if (signal.aborted) abort()
      else if (file.have.complete) waiter.resolve()
    })
  }

  /** All chunks of an artifact are somewhere on this device: copies what a waiting file still lacks. */
  async artifactComplete(artifact: string): Promise<void> {
    for (const waiter of this.#waiters.filter(({ file }) => file.index.id === artifact)) {
      try {
        if (!waiter.file.have.complete) this.#foundLocally(await this.#store.fillFromDevice(waiter.file))
        await this.#store.flush(waiter.file)
        if (waiter.file.have.complete) waiter.resolve()
      } catch (error) {
        waiter.reject(error)
      }
    }
  }

  fail(artifact: string, error: unknown): void {
    for (const waiter of this.#waiters.filter(({ file }) => file.index.id === artifact)) waiter.reject(error)
  }
}
