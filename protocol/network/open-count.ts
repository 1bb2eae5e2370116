/** Counts what each of many keys (addresses, peers) has open at once. Holds no more than what is open. */
export class OpenCount {
  readonly #most: number
  readonly #open = new Map<string, number>()

  /** @param most - how many one key may have open */
  constructor(most: number) {
    this.#most = most
  }

  /** Counts one more. @returns what ends it, however often it is called; undefined when the key has as many as it may */
  take(key: string): (() => void) | undefined {
    const count = this.#open.get(key) ?? 0
    if (count >= this.#most) return undefined
    this.#open.set(key, count + 1)
    let isOpen = true
    return () => {
      if (!isOpen) return
      isOpen = false
      const left = (this.#open.get(key) ?? 1) - 1
      if (left > 0) this.#open.set(key, left)
      else this.#open.delete(key)
    }
  }

  has(key: string): boolean {
    return this.#open.has(key)
  }
}
