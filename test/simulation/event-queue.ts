type Event = { readonly atMs: number; readonly order: number; readonly run: () => void }

/** Virtual time: events run in the order of their times, those of one time in the order they were added. */
export class EventQueue {
  readonly #heap: Event[] = []
  #order = 0
  nowMs = 0

  after(delayMs: number, run: () => void): void {
    this.#order += 1
    const event = { atMs: this.nowMs + delayMs, order: this.#order, run }
    const heap = this.#heap
    let at = heap.length
    heap.push(event)
    while (at > 0) {
      const parent = (at - 1) >> 1
      const above = heap[parent]
      if (above === undefined || !before(event, above)) break
      heap[at] = above
      at = parent
    }
    heap[at] = event
  }

  /** Runs events until `done`, or until nothing is left or virtual time reaches `endMs`. True when done. */
  run(endMs: number, done: () => boolean): boolean {
    while (!done()) {
      const event = this.#take()
      if (event === undefined || event.atMs > endMs) return false
      this.nowMs = event.atMs
      event.run()
    }
    return true
  }

  #take(): Event | undefined {
    const heap = this.#heap
    const first = heap[0]
    const last = heap.pop()
    if (first === undefined || last === undefined || heap.length === 0) return first
    let at = 0
    for (;;) {
      let child = at * 2 + 1
      const left = heap[child]
      const right = heap[child + 1]
      if (left !== undefined && right !== undefined && before(right, left)) child += 1
      const next = heap[child]
      if (next === undefined || !before(next, last)) break
      heap[at] = next
      at = child
    }
    heap[at] = last
    return first
  }
}

function before(a: Event, b: Event): boolean {
  return a.atMs === b.atMs ? a.order < b.order : a.atMs < b.atMs
}
