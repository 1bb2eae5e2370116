/** Counts what moved since the agent started: fetched, served, and both by interface. */
export class MovedBytes {
  readonly #linkOf: (peer: string) => string
  readonly #byLink = new Map<string, number>()
  fetchedBytes = 0
  servedBytes = 0

  /** @param linkOf - the interface over which a peer is reached */
  constructor(linkOf: (peer: string) => string) {
    this.#linkOf = linkOf
  }

  fetched(bytes: number, from: string): void {
    this.fetchedBytes += bytes
    this.#count(bytes, from)
  }

  served(bytes: number, to: string): void {
    this.servedBytes += bytes
    this.#count(bytes, to)
  }

  get byLink(): ReadonlyMap<string, number> {
    return this.#byLink
  }

  #count(bytes: number, peer: string): void {
    const link = this.#linkOf(peer)
    this.#byLink.set(link, (this.#byLink.get(link) ?? 0) + bytes)
  }
}
