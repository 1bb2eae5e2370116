/** Something the robot asks for, for a while. */
export type Wish = { readonly reason: string; readonly untilMs: number }

const MOST = 32

/** The wishes that are in force; one for each reason, the newest of it, and a bounded number. Times are monotonic. */
export class WishList<T extends Wish> {
  #wishes: readonly T[] = []

  /** Adds a wish, or renews the one with the same reason. */
  add(wish: T): void {
    this.#wishes = [...this.#wishes.filter((other) => other.reason !== wish.reason), wish].slice(-MOST)
  }

  /** Ends the wish with this reason, or all. @returns how many are left */
  release(reason: string | undefined): number {
    this.#wishes = this.#wishes.filter((wish) => reason !== undefined && wish.reason !== reason)
    return this.#wishes.length
  }

  current(nowMs: number): readonly T[] {
    this.#wishes = this.#wishes.filter((wish) => wish.untilMs > nowMs)
    return this.#wishes
  }
}
