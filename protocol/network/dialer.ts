/** Where a peer may be found. Address: a multiaddr without the peer id, such as `/ip4/10.0.0.7/tcp/4848`. */
export type KnownPeer = { readonly id: string; readonly addresses: readonly string[] }

type Entry = {
  addresses: string[]
  failures: number
  nextMs: number
  dialing: boolean
  lastHeardMs: number
  /** Dialled until then however many neighbours there are. */
  soughtUntilMs: number
}

export type DialerOptions = {
  readonly selfId: string
  readonly dial: (id: string, addresses: readonly string[]) => Promise<void>
  readonly isConnected: (id: string) => boolean
  /** How many devices are connected. */
  readonly neighbours: () => number
  /** Whether the peer is of more use than another, such as one of the same board. */
  readonly isPreferred: (id: string) => boolean
  readonly random: () => number
  readonly nowMs: () => number
}

/**
 * A device looks for so many neighbours and takes in so many that look for it. Full meshes cost every device memory and pings
 * for every other; with 8 to 12 neighbours a swarm finishes as fast (facts/distribution.md 2.4) and gossip stays connected.
 */
export const NEIGHBOURS = { wanted: 10, most: 24 } as const
/** One more is dialled so often, whoever it is: two halves of a fleet that were apart, each with neighbours enough, must meet. */
const MIX_MS = 60_000
/** Heard within this time it is probably there. */
const RECENT_MS = 60_000
const SEEK_MS = 60_000
const MAX_PEERS = 1_024
const MAX_ADDRESSES = 8
const PARALLEL_DIALS = 8
const MAX_BACKOFF_MS = 30_000
/** Both sides hear of each other at once: the larger id waits this long, so that there is one connection and not two. */
const POLITE_WAIT_MS = 3_000

/**
 * Keeps trying to reach every known peer. libp2p dials nobody by itself and its reconnect queue gives up
 * (facts/libp2p.md 1.5). A peer that is heard again is dialled at once, whatever failed before.
 */
export class Dialer {
  readonly #options: DialerOptions
  readonly #peers = new Map<string, Entry>()
  #mixMs: number

  constructor(options: DialerOptions) {
    this.#options = options
    this.#mixMs = options.nowMs() + MIX_MS * (0.5 + options.random())
  }

  /** Notes addresses of a peer. @param live - it was just heard from, so waiting makes no sense */
  learn(id: string, addresses: readonly string[], live: boolean): void {
    if (id === this.#options.selfId || addresses.length === 0) return
    const nowMs = this.#options.nowMs()
    let entry = this.#peers.get(id)
    if (entry === undefined) {
      if (this.#peers.size >= MAX_PEERS && !this.#dropOne()) return
      const polite = this.#options.selfId > id ? POLITE_WAIT_MS : 0
      entry = {
        addresses: [],
        failures: 0,
        nextMs: nowMs + polite,
        dialing: false,
        lastHeardMs: live ? nowMs : -Infinity,
        soughtUntilMs: -Infinity,
      }
      this.#peers.set(id, entry)
    }
    // Hearsay goes behind what the peer itself was heard at, or a liar could crowd the good addresses out.
    const ordered = live ? [...addresses, ...entry.addresses] : [...entry.addresses, ...addresses]
    entry.addresses = [...new Set(ordered)].slice(0, MAX_ADDRESSES)
    if (!live) return
    entry.lastHeardMs = nowMs
    if (entry.failures > 0) {
      entry.failures = 0
      entry.nextMs = nowMs + (this.#options.selfId > id ? POLITE_WAIT_MS : 0)
    }
  }

  #dropOne(): boolean {
    let oldest: [string, number] | undefined
    for (const [id, entry] of this.#peers) {
      if (!this.#options.isConnected(id) && (oldest === undefined || entry.lastHeardMs < oldest[1]))
        oldest = [id, entry.lastHeardMs]
    }
    return oldest !== undefined && this.#peers.delete(oldest[0])
  }

  /** A connection was lost: try soon, the peer may only have moved. */
  lost(id: string): void {
    const entry = this.#peers.get(id)
    if (entry !== undefined) entry.nextMs = this.#options.nowMs() + this.#options.random() * 2_000
  }

  /** The peer has what is needed here and no neighbour has: it is dialled all the same. False when no address is known. */
  seek(id: string): boolean {
    const entry = this.#peers.get(id)
    if (entry !== undefined) entry.soughtUntilMs = this.#options.nowMs() + SEEK_MS
    return entry !== undefined
  }

  /** Starts the dials that are due; call about once a second. */
  tick(): void {
    const nowMs = this.#options.nowMs()
    let dialing = [...this.#peers.values()].filter((entry) => entry.dialing).length
    const due = [...this.#peers].filter(
      ([id, entry]) => !entry.dialing && entry.nextMs <= nowMs && !this.#options.isConnected(id),
    )
    const sought = due.filter(([, entry]) => entry.soughtUntilMs > nowMs)
    const others = due.filter(([, entry]) => entry.soughtUntilMs <= nowMs)
    const room = Math.max(0, NEIGHBOURS.wanted - this.#options.neighbours() - dialing)
    for (const [id, entry] of [...sought, ...this.#choose(others, room), ...this.#mix(others)]) {
      if (dialing >= PARALLEL_DIALS) return
      if (entry.dialing) continue
      dialing += 1
      this.#dial(id, entry)
    }
  }

  /**
   * Whom to dial: preferred ones until they are half of the neighbours, then any. Among those who was heard of just now, then
   * those that failed least, since dead addresses must not keep a live peer waiting; else at random, or all would crowd
   * around the same.
   */
  #choose(entries: readonly [string, Entry][], room: number): readonly [string, Entry][] {
    const nowMs = this.#options.nowMs()
    const ranked = entries
      .map(([id, entry]) => {
        const recent = nowMs - entry.lastHeardMs < RECENT_MS
        return { id, entry, rank: (recent ? 0 : 100) + Math.min(entry.failures, 50) + this.#options.random() }
      })
      .sort((a, b) => a.rank - b.rank)
    const connected = [...this.#peers.keys()].filter((id) => this.#options.isConnected(id))
    const lacking = NEIGHBOURS.wanted / 2 - connected.filter((id) => this.#options.isPreferred(id)).length
    const preferred = ranked.filter(({ id }) => this.#options.isPreferred(id)).slice(0, Math.max(0, lacking))
    return [...new Set([...preferred, ...ranked])].slice(0, room).map(({ id, entry }) => [id, entry])
  }

  /** Now and then anybody at all. */
  #mix(entries: readonly [string, Entry][]): readonly [string, Entry][] {
    const nowMs = this.#options.nowMs()
    if (nowMs < this.#mixMs) return []
    this.#mixMs = nowMs + MIX_MS * (0.5 + this.#options.random())
    const one = entries[Math.floor(this.#options.random() * entries.length)]
    return one === undefined ? [] : [one]
  }

  #dial(id: string, entry: Entry): void {
    entry.dialing = true
    this.#options
      .dial(id, entry.addresses)
      .then(() => {
        entry.failures = 0
      })
      .catch(() => {
        entry.failures += 1
      })
      .finally(() => {
        entry.dialing = false
        const backoff = Math.min(MAX_BACKOFF_MS, 1_000 * 2 ** Math.min(entry.failures, 5))
        entry.nextMs = this.#options.nowMs() + backoff * (0.5 + this.#options.random() * 0.5)
      })
  }

  /** What is worth remembering over a restart and telling others. */
  known(): readonly KnownPeer[] {
    return [...this.#peers].map(([id, entry]) => ({ id, addresses: entry.addresses }))
  }
}
