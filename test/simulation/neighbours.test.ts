import { describe, expect, it } from 'vitest'
import { Dialer, NEIGHBOURS } from '../../protocol/network/dialer.ts'
import { seededRandom } from './seeded-random.ts'

/** A fleet of dialers in virtual time. Everybody hears of everybody on the same island every ten seconds. */
class Dialers {
  nowMs = 0
  readonly links = new Map<string, Set<string>>()
  readonly islandOf: (id: string) => number
  readonly #dialers = new Map<string, Dialer>()
  islandsApart = true

  constructor(count: number, islandOf: (id: string) => number, seed: number) {
    const random = seededRandom(seed)
    this.islandOf = islandOf
    for (let at = 0; at < count; at += 1) {
      const id = `peer-${String(at).padStart(3, '0')}`
      this.links.set(id, new Set())
      this.#dialers.set(
        id,
        new Dialer({
          selfId: id,
          dial: (other) => this.#connect(id, other),
          isConnected: (other) => this.links.get(id)?.has(other) === true,
          neighbours: () => this.links.get(id)?.size ?? 0,
          isPreferred: () => false,
          random,
          nowMs: () => this.nowMs,
        }),
      )
    }
  }

  #connect(one: string, other: string): Promise<void> {
    const full = (this.links.get(other)?.size ?? 0) >= NEIGHBOURS.most
    if (full || !this.#hear(one, other)) return Promise.reject(new Error('busy or out of reach'))
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
})
