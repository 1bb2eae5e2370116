import { describe, expect, it } from 'vitest'
import { chooseToDrop } from '../../protocol/network/choose-neighbour.ts'
import { Dialer, NEIGHBOURS } from '../../protocol/network/dialer.ts'
import { seededRandom } from './seeded-random.ts'

/** A fleet of dialers in virtual time. Everybody hears of everybody on the same island every ten seconds. */
class Dialers {
  nowMs = 0
  readonly links = new Map<string, Set<string>>()
  readonly islandOf: (id: string) => number
  readonly #dialers = new Map<string, Dialer>()
  islandsApart = true

  readonly #random: () => number
  readonly #boardOf: (id: string) => string
  readonly #since = new Map<string, number>()
  readonly #trimMs = new Map<string, number>()

  /** @param boardOf - devices prefer those of their own board; left out, all are alike */
  constructor(
    count: number,
    islandOf: (id: string) => number,
    seed: number,
    boardOf: (id: string) => string = (id) => id,
  ) {
    const random = seededRandom(seed)
    this.#random = random
    this.#boardOf = boardOf
    this.islandOf = islandOf
    for (let at = 0; at < count; at += 1) this.add(`peer-${String(at).padStart(3, '0')}`)
  }

  add(id: string): void {
    this.links.set(id, new Set())
    this.#dialers.set(
      id,
      new Dialer({
        selfId: id,
        dial: (other) => this.#connect(id, other),
        isConnected: (other) => this.links.get(id)?.has(other) === true,
        neighbours: () => this.links.get(id)?.size ?? 0,
        isPreferred: (other) => this.#boardOf(other) === this.#boardOf(id),
        random: this.#random,
        nowMs: () => this.nowMs,
      }),
    )
  }

  /** As FleetNode does it: twice a minute, when there are too many. */
  #trim(id: string): void {
    if (this.nowMs < (this.#trimMs.get(id) ?? 0)) return
    this.#trimMs.set(id, this.nowMs + 30_000 * (0.5 + this.#random()))
    const links = this.links.get(id) ?? new Set()
    if (links.size <= NEIGHBOURS.wanted + 4) return
    const known = [...links].map((other) => ({
      id: other,
      preferred: this.#boardOf(other) === this.#boardOf(id),
      idle: true,
      pinned: false,
      connectedMs: this.nowMs - (this.#since.get([id, other].sort().join()) ?? this.nowMs),
    }))
    const dropped = chooseToDrop(known, NEIGHBOURS.wanted / 2, this.#random)
    if (dropped === undefined) return
    links.delete(dropped)
    this.links.get(dropped)?.delete(id)
    this.#dialers.get(id)?.lost(dropped)
    this.#dialers.get(dropped)?.lost(id)
  }

  #connect(one: string, other: string): Promise<void> {
    const full = (this.links.get(other)?.size ?? 0) >= NEIGHBOURS.most
    if (full || !this.#hear(one, other)) return Promise.reject(new Error('busy or out of reach'))
    this.#since.set([one, other].sort().join(), this.nowMs)
    this.links.get(one)?.add(other)
    this.links.get(other)?.add(one)
    return Promise.resolve()
  }

  #hear(one: string, other: string): boolean {
    return !this.islandsApart || this.islandOf(one) === this.islandOf(other)
  }

  async run(seconds: number): Promise<void> {
    for (let second = 0; second < seconds; second += 1) {
      this.nowMs += 1_000
      for (const [id, dialer] of this.#dialers) {
        if (this.nowMs % 10_000 === 0) {
          for (const other of this.#dialers.keys())
            if (other !== id && this.#hear(id, other)) dialer.learn(other, [`/ip4/10.0.0.1/tcp/1`], true)
        }
        dialer.tick()
        this.#trim(id)
      }
      await new Promise((resolve) => setImmediate(resolve)) // the dials settle
    }
  }

  /** How many devices a message from the first one reaches. */
  reached(): number {
    const seen = new Set<string>()
    const next = [...this.links.keys()].slice(0, 1)
    for (let id = next.pop(); id !== undefined; id = next.pop()) {
      if (seen.has(id)) continue
      seen.add(id)
      next.push(...(this.links.get(id) ?? []))
    }
    return seen.size
  }
}

describe('the neighbours of a device', () => {
  it.each([1, 2, 3])('are some ten in a fleet of 120, and everybody is connected (seed %d)', async (seed) => {
    const fleet = new Dialers(120, () => 0, seed)
    await fleet.run(60)
    const degrees = [...fleet.links.values()].map((links) => links.size)
    expect(Math.min(...degrees)).toBeGreaterThanOrEqual(NEIGHBOURS.wanted)
    expect(Math.max(...degrees)).toBeLessThanOrEqual(NEIGHBOURS.most)
    expect(degrees.reduce((a, b) => a + b) / degrees.length).toBeLessThan(NEIGHBOURS.wanted * 1.6)
    expect(fleet.reached()).toBe(120)
  })

  it.each([1, 2, 3])('meet when two halves of a fleet that had enough each come together (seed %d)', async (seed) => {
    const fleet = new Dialers(60, (id) => Number(id.slice(-1)) % 2, seed)
    await fleet.run(60)
    expect(fleet.reached()).toBe(30)
    fleet.islandsApart = false
    await fleet.run(30)
    expect(fleet.reached()).toBe(60)
  })

  it.each([1, 2, 3])(
    'stay between ten and some more in a fleet of one board, with room for a newcomer (seed %d)',
    async (seed) => {
      const fleet = new Dialers(
        80,
        () => 0,
        seed,
        () => 'pi-4',
      )
      await fleet.run(900)
      const mean = [...fleet.links.values()].reduce((sum, links) => sum + links.size, 0) / 80
      expect(mean).toBeLessThan(NEIGHBOURS.wanted * 1.6)
      fleet.add('newcomer')
      await fleet.run(60)
      expect(fleet.links.get('newcomer')?.size).toBeGreaterThanOrEqual(NEIGHBOURS.wanted)
    },
  )

  it.each([1, 2])('are not taken from a device that is the only one of its board (seed %d)', async (seed) => {
    const fleet = new Dialers(
      80,
      () => 0,
      seed,
      (id) => (id === 'peer-000' ? 'odroid' : 'pi-4'),
    )
    for (let minute = 0; minute < 15; minute += 1) {
      await fleet.run(60)
      expect(fleet.links.get('peer-000')?.size).toBeGreaterThanOrEqual(4)
    }
    expect(fleet.reached()).toBe(80)
  })
})
