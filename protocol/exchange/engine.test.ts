import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type ChunkIndex, encodeChunkIndex } from '../chunks/chunk-index.ts'
import { Bitmap } from './bitmap.ts'
import { type ExchangeEffect, ExchangeEngine, type ExchangeInput } from './engine.ts'
import { DEFAULT_LIMITS } from './limits.ts'
import type { ExchangeMessage } from './messages.ts'

const CHUNK_BYTES = 65_536

function indexOf(count: number): ChunkIndex {
  return encodeChunkIndex(
    Array.from({ length: count }, (_, at) => ({
      sha256: createHash('sha256').update(String(at)).digest(),
      lengthBytes: CHUNK_BYTES,
    })),
  )
}

function firstOf(bits: Bitmap, count: number): number[] {
  return Array.from({ length: bits.size }, (_, at) => at)
    .filter((at) => bits.has(at))
    .slice(0, count)
}

/** A generator of numbers in 0 … 1 that is the same for the same seed. */
function random(seed: number): () => number {
  let state = seed | 1
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}

/** Engines joined by messages that arrive in a random order between peers (in order within a pair), without any I/O. */
class Swarm {
  readonly engines = new Map<string, ExchangeEngine>()
  readonly complete = new Set<string>()
  readonly banned: string[] = []
  readonly sent = new Map<string, number>()
  readonly #wires = new Map<string, (() => void)[]>()
  readonly #random: () => number
  readonly corrupt = new Set<string>()
  nowMs = 0

  constructor(seed: number) {
    this.#random = random(seed)
  }

  add(name: string): void {
    this.engines.set(name, new ExchangeEngine(this.#random))
  }

  step(name: string, input: ExchangeInput): void {
    for (const effect of this.engines.get(name)?.step(input, this.nowMs) ?? []) this.#run(name, effect)
  }

  #wire(from: string, to: string, deliver: () => void): void {
    const key = `${from}>${to}`
    this.#wires.set(key, [...(this.#wires.get(key) ?? []), deliver])
  }

  #run(self: string, effect: ExchangeEffect): void {
    switch (effect.type) {
      case 'send':
        this.#wire(self, effect.peer, () =>
          this.step(effect.peer, { type: 'message', peer: self, message: effect.message }),
        )
        break
      case 'serve': {
        const payload = new Uint8Array(CHUNK_BYTES)
        if (this.corrupt.has(self)) payload[0] = 1
        this.sent.set(self, (this.sent.get(self) ?? 0) + 1)
        const message = { type: 'chunk', artifact: effect.artifact, chunk: effect.chunk, payload } as const
        this.#wire(self, effect.peer, () => this.step(effect.peer, { type: 'message', peer: self, message }))
        this.#wire(self, self, () => this.step(self, { type: 'sent', peer: effect.peer }))
        break
      }
      case 'store': {
        const { artifact, chunk, from, payload } = effect
        const bad = payload[0] === 1
        this.#wire(self, self, () =>
          this.step(
            self,
            bad ? { type: 'chunk-bad', artifact, chunk, from } : { type: 'chunk-stored', artifact, chunk, from },
          ),
        )
        break
      }
      case 'complete':
        this.complete.add(self)
        break
      case 'ban':
        this.banned.push(`${self} bans ${effect.peer}: ${effect.reason}`)
        this.disconnect(self, effect.peer)
        break
    }
  }

  connect(a: string, b: string): void {
    this.step(a, { type: 'peer-joined', peer: b })
    this.step(b, { type: 'peer-joined', peer: a })
  }

  disconnect(a: string, b: string): void {
    this.#wires.delete(`${a}>${b}`)
    this.#wires.delete(`${b}>${a}`)
    this.step(a, { type: 'peer-left', peer: b })
    this.step(b, { type: 'peer-left', peer: a })
  }

  /** Delivers until nothing is under way; every engine ticks now and then. */
  run(limit = 200_000, each: () => void = () => {}): void {
    for (let n = 0; n < limit; n += 1) {
      const wires = [...this.#wires.values()].filter((wire) => wire.length > 0)
      if (n % 200 === 0 || wires.length === 0) {
        this.nowMs += 300
        for (const name of this.engines.keys()) this.step(name, { type: 'tick' })
        if (wires.length === 0 && this.nowMs > 120_000) return
        if (wires.length === 0) continue
      }
      wires[Math.floor(this.#random() * wires.length)]?.shift()?.()
      each()
    }
  }
}

const index = indexOf(200)

function swarmOf(seed: number, leechers: number): { swarm: Swarm; names: string[] } {
  const swarm = new Swarm(seed)
  const names = Array.from({ length: leechers }, (_, at) => `l${at}`)
  for (const name of ['seed', ...names]) swarm.add(name)
  swarm.step('seed', { type: 'offer-artifact', index, have: Bitmap.full(index.count) })
  for (const name of names)
    swarm.step(name, { type: 'want-artifact', index, have: new Bitmap(index.count), priority: 0 })
  const all = ['seed', ...names]
  all.forEach((a, at) => all.slice(at + 1).forEach((b) => swarm.connect(a, b)))
  return { swarm, names }
}

/** An engine that wants all of the index, with a source on a wire and one behind the same air, neither of which has anything. */
function nearAndFar() {
  const engine = new ExchangeEngine(random(4))
  engine.step({ type: 'want-artifact', index, have: new Bitmap(index.count), priority: 0 }, 0)
  for (const [peer, radioHops] of [
    ['wired', 1],
    ['far', 2],
  ] as const) {
    engine.step({ type: 'peer-joined', peer, radioHops }, 0)
    const bits = new Bitmap(index.count).bytes
    const message = { type: 'have', artifact: index.id, size: index.count, bits } as const
    engine.step({ type: 'message', peer, message }, 0)
  }
  return { engine, news: { type: 'gained', artifact: index.id } as const }
}

/** The chunks that are asked for by number, and of whom. */
function asked(effects: readonly ExchangeEffect[]) {
  return effects.flatMap((effect) =>
    effect.type === 'send' && effect.message.type === 'want'
      ? [{ peer: effect.peer, chunks: effect.message.chunks }]
      : [],
  )
}

describe('the exchange engine', () => {
  it('completes every peer under random schedules, and the seed gives little more than one copy', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 30 }), fc.integer({ min: 1, max: 6 }), (seed, leechers) => {
        const { swarm, names } = swarmOf(seed, leechers)
        swarm.run()
        expect([...swarm.complete].sort()).toEqual(names)
        expect(swarm.banned).toEqual([])
        const total = [...swarm.sent.values()].reduce((sum, count) => sum + count, 0)
        // Endgame may ask twice for a few chunks of each peer.
        expect(total).toBeLessThanOrEqual(leechers * (index.count + 45))
      }),
      { numRuns: 25 },
    )
  })

  it('brings everybody to the union of what was sent when the seed leaves in the middle', () => {
    const { swarm, names } = swarmOf(7, 4)
    let left = false
    swarm.run(400_000, () => {
      if (left || (swarm.sent.get('seed') ?? 0) < index.count) return
      left = true
      for (const name of names) swarm.disconnect('seed', name)
    })
    expect(left).toBe(true)
    const have = names.map((name) => swarm.engines.get(name)?.progress(index.id)?.have ?? 0)
    expect(new Set(have).size).toBe(1) // everybody has all that is left in the swarm
    expect(Math.min(...have)).toBeGreaterThan(index.count * 0.75)
  })

  it('bans a peer after three bad chunks and finishes from the others', () => {
    const { swarm, names } = swarmOf(11, 3)
    swarm.add('liar')
    swarm.corrupt.add('liar')
    swarm.step('liar', { type: 'offer-artifact', index, have: Bitmap.full(index.count) })
    for (const name of names) swarm.connect(name, 'liar')
    swarm.run()
    expect([...swarm.complete].sort()).toEqual(names)
    expect(swarm.banned.filter((text) => text.includes('liar: BAD_CHUNKS')).length).toBe(names.length)
  })

  it('never has more asked for and unwritten than its window, even when the disk does not keep up', () => {
    const engine = new ExchangeEngine(random(3))
    const big = indexOf(3_000)
    engine.step({ type: 'want-artifact', index: big, have: new Bitmap(big.count), priority: 0 }, 0)
    let queue = [...engine.step({ type: 'peer-joined', peer: 'p' }, 0)]
    queue.push(
      ...engine.step(
        {
          type: 'message',
          peer: 'p',
          message: { type: 'have', artifact: big.id, size: big.count, bits: Bitmap.full(big.count).bytes },
        },
        0,
      ),
    )
    let stored = 0
    for (let n = 0; n < 5_000 && queue.length > 0; n += 1) {
      const effect = queue.shift()
      if (effect?.type === 'store') stored += 1 // and it never comes back
      if (effect?.type !== 'send') continue
      const { message: asked } = effect
      const wanted =
        asked.type === 'want'
          ? asked.chunks
          : asked.type === 'want-any'
            ? firstOf(new Bitmap(asked.size, asked.bits), asked.count)
            : []
      for (const chunk of wanted) {
        const message = { type: 'chunk', artifact: big.id, chunk, payload: new Uint8Array(CHUNK_BYTES) } as const
        queue = [...queue, ...engine.step({ type: 'message', peer: 'p', message }, n)]
      }
    }
    expect(stored * CHUNK_BYTES).toBeLessThanOrEqual(DEFAULT_LIMITS.totalWindowBytes + CHUNK_BYTES)
    expect(engine.inFlightBytes).toBeLessThanOrEqual(DEFAULT_LIMITS.totalWindowBytes + CHUNK_BYTES)
  })

  it('says what it lost, and what it has after all; what is whole and only offered is asked of nobody', () => {
    const engine = new ExchangeEngine(random(4))
    const have = Bitmap.full(index.count)
    engine.step({ type: 'want-artifact', index, have, priority: 0 }, 0)
    engine.step({ type: 'peer-joined', peer: 'p' }, 0)
    const hear = (message: ExchangeMessage) => engine.step({ type: 'message', peer: 'p', message }, 0)
    hear({ type: 'ask', artifact: index.id })
    hear({ type: 'have', artifact: index.id, size: index.count, bits: have.bytes })
    engine.step({ type: 'offer-artifact', index, have }, 0)
    const lose = () => engine.step({ type: 'chunk-lost', artifact: index.id, chunk: 3 }, 0)
    expect(lose()).toEqual([{ type: 'send', peer: 'p', message: { type: 'lost', artifact: index.id, chunks: [3] } }])
    const again = engine.step({ type: 'offer-artifact', index, have }, 0)
    expect(again.filter(({ type }) => type === 'send')).toEqual([
      { type: 'send', peer: 'p', message: { type: 'gained', artifact: index.id, chunks: [3] } },
    ])
    engine.step({ type: 'want-artifact', index, have, priority: 0 }, 0)
    expect(lose().map((effect) => effect.type === 'send' && effect.message.type)).toEqual(['lost', 'want'])
  })

  it('asks anew what its peers have when nothing moved for half a minute', () => {
    const engine = new ExchangeEngine(random(4))
    engine.step({ type: 'peer-joined', peer: 'p' }, 0)
    engine.step({ type: 'want-artifact', index, have: new Bitmap(index.count), priority: 0 }, 0)
    expect(engine.step({ type: 'tick' }, 29_000)).toEqual([])
    const asks = [{ type: 'send', peer: 'p', message: { type: 'ask', artifact: index.id } }]
    expect(engine.step({ type: 'tick' }, 30_000)).toEqual(asks)
    expect(engine.step({ type: 'tick' }, 31_000)).toEqual([])
    const bits = Bitmap.full(index.count).bytes
    const have = { type: 'have', artifact: index.id, size: index.count, bits } as const
    expect(engine.step({ type: 'message', peer: 'p', message: have }, 59_000)).toMatchObject([
      { type: 'send', message: { type: 'want-any' } },
    ])
    expect(engine.step({ type: 'tick' }, 60_000)).toEqual([])
  })

  it('is not kept from serving others by peers that never take their chunk', () => {
    const engine = new ExchangeEngine(random(5))
    engine.step({ type: 'offer-artifact', index, have: Bitmap.full(index.count) }, 0)
    const want = (peer: string, nowMs: number) => {
      engine.step({ type: 'peer-joined', peer }, nowMs)
      const message = { type: 'want', artifact: index.id, chunks: [1, 2, 3] } as const
      return engine.step({ type: 'message', peer, message }, nowMs).filter((effect) => effect.type === 'serve')
    }
    for (let at = 0; at < 8; at += 1) expect(want(`silent-${at}`, 0)).toHaveLength(1)
    expect(want('honest', 0), 'eight uploads at once').toEqual([])
    const later = engine.step({ type: 'tick' }, 2_001).filter((effect) => effect.type === 'serve')
    expect(later).toMatchObject([{ peer: 'honest' }])
    expect(engine.step({ type: 'sent', peer: 'honest' }, 2_002)).toMatchObject([{ type: 'serve', peer: 'honest' }])
  })

  it('gives each of several peers that let it choose a chunk that nobody has, then says so', () => {
    const engine = new ExchangeEngine(random(6))
    engine.step({ type: 'offer-artifact', index, have: Bitmap.full(index.count) }, 0)
    const bits = new Uint8Array(Math.ceil(index.count / 8)).fill(0xff)
    const given: number[] = []
    const spent: string[] = []
    const take = (effects: readonly ExchangeEffect[]): void => {
      for (const effect of effects) {
        if (effect.type === 'send' && effect.message.type === 'spent') spent.push(effect.peer)
        if (effect.type !== 'serve') continue
        given.push(effect.chunk)
        take(engine.step({ type: 'sent', peer: effect.peer }, 0))
      }
    }
    for (let round = 0; round < 60; round += 1) {
      const peer = `p${round % 3}`
      engine.step({ type: 'peer-joined', peer }, 0)
      const message = { type: 'want-any', artifact: index.id, count: 4, size: index.count, bits } as const
      take(engine.step({ type: 'message', peer, message }, 0))
    }
    expect(given.length).toBe(index.count)
    expect(new Set(given).size).toBe(index.count)
    expect(new Set(spent).size).toBe(3)
  })

  it('bans a source that may choose and sends what is here already, or what does not exist', () => {
    for (const wrong of [0, 5_000]) {
      const engine = new ExchangeEngine(random(9))
      const have = new Bitmap(index.count)
      have.add(0)
      engine.step({ type: 'want-artifact', index, have, priority: 0 }, 0)
      engine.step({ type: 'peer-joined', peer: 'p' }, 0)
      const bits = Bitmap.full(index.count).bytes
      engine.step(
        { type: 'message', peer: 'p', message: { type: 'have', artifact: index.id, size: index.count, bits } },
        0,
      )
      const effects: ExchangeEffect[] = []
      for (let n = 0; n < 100; n += 1) {
        const payload = new Uint8Array(CHUNK_BYTES)
        const message = { type: 'chunk', artifact: index.id, chunk: wrong, payload } as const
        effects.push(...engine.step({ type: 'message', peer: 'p', message }, n))
      }
      expect(effects.filter((effect) => effect.type === 'store')).toEqual([])
      expect(effects).toContainEqual({ type: 'ban', peer: 'p', reason: 'UNASKED_CHUNK' })
    }
  })

  it('asks for no more than it may receive', () => {
    const engine = new ExchangeEngine(random(8))
    engine.step({ type: 'limit', receiveRate: 0, isClosed: () => false }, 0)
    engine.step({ type: 'want-artifact', index, have: new Bitmap(index.count), priority: 0 }, 0)
    engine.step({ type: 'peer-joined', peer: 'p' }, 0)
    const have = { type: 'have', artifact: index.id, size: index.count, bits: Bitmap.full(index.count).bytes } as const
    expect(engine.step({ type: 'message', peer: 'p', message: have }, 0)).toEqual([])
    expect(engine.step({ type: 'tick' }, 60_000)).toEqual([])
    engine.step({ type: 'limit', receiveRate: 100_000, isClosed: () => false }, 60_000)
    expect(engine.step({ type: 'tick' }, 61_000)).toMatchObject([{ message: { type: 'want-any', count: 1 } }])
  })

  it('leaves a chunk to a nearer source that is about to have it, for a second after the last one that it gained', () => {
    const { engine, news } = nearAndFar()
    engine.step({ type: 'message', peer: 'wired', message: { ...news, chunks: [0] } }, 1_000)
    // News of the next came from the station first.
    expect(asked(engine.step({ type: 'message', peer: 'far', message: { ...news, chunks: [1] } }, 1_100))).toEqual([])
    expect(asked(engine.step({ type: 'tick' }, 1_900))).toEqual([])
    expect(asked(engine.step({ type: 'tick' }, 2_100))).toEqual([{ peer: 'far', chunks: [1] }])
  })

  it('does not wait for a nearer source that goes on telling of chunks and brings none', () => {
    const { engine, news } = nearAndFar()
    engine.step({ type: 'message', peer: 'wired', message: { ...news, chunks: [0] } }, 1_000)
    engine.step({ type: 'message', peer: 'far', message: { ...news, chunks: [1] } }, 1_000)
    let askedMs: number | undefined
    for (let ms = 1_000; ms < 10_000 && askedMs === undefined; ms += 500) {
      const gained = { ...news, chunks: [2 + ms / 500] }
      const effects = engine.step({ type: 'message', peer: 'wired', message: gained }, ms)
      if (asked([...effects, ...engine.step({ type: 'tick' }, ms)]).some(({ peer }) => peer === 'far')) askedMs = ms
    }
    expect(askedMs).toBeGreaterThanOrEqual(3_000)
    expect(askedMs).toBeLessThanOrEqual(5_000)
  })

  it('asks again for a chunk that was offered whole and turns out rotten', () => {
    const { swarm } = swarmOf(5, 1)
    swarm.add('victim')
    const have = Bitmap.full(index.count)
    swarm.step('victim', { type: 'offer-artifact', index, have })
    swarm.connect('victim', 'seed')
    have.remove(17)
    swarm.step('victim', { type: 'want-artifact', index, have, priority: 0 })
    swarm.run()
    expect(swarm.complete.has('victim')).toBe(true)
    expect(swarm.engines.get('victim')?.progress(index.id)?.have).toBe(index.count)
  })
})
