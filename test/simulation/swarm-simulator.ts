import { createHash } from 'node:crypto'
import { type ChunkIndex, encodeChunkIndex } from '../../protocol/chunks/chunk-index.ts'
import { Bitmap } from '../../protocol/exchange/bitmap.ts'
import { type ExchangeEffect, ExchangeEngine, type ExchangeInput } from '../../protocol/exchange/engine.ts'
import type { RadioHops } from '../../protocol/exchange/airtime.ts'
import type { ExchangeMessage } from '../../protocol/exchange/messages.ts'
import { EventQueue } from './event-queue.ts'
import { seededRandom } from './seeded-random.ts'

/** A swarm in virtual time: device 0 has everything, the others nothing. */
export type SwarmScenario = {
  readonly seed: number
  readonly devices: number
  readonly chunks: number
  /** Links that each device opens; the mesh has about twice as many per device. 0 joins all with all. */
  readonly opens: number
  readonly latencyMs: number
  /** Bytes per millisecond that a device can send, and receive. */
  readonly rate: (device: number) => number
  /** All devices share one medium of this rate, in bytes per millisecond (an access point without wires); 0: a switch. */
  readonly sharedRate: number
  /** Devices behind the access point, by wire: what comes from them crosses the medium once, between stations twice. */
  readonly wired: (device: number) => boolean
  /** Every so often a random device other than the seed is cut off for `awayMs`; 0 never. */
  readonly churnEveryMs: number
  readonly awayMs: number
}

export type SwarmResult = {
  readonly finished: number
  /** When the last, the median and the first device held everything, milliseconds. */
  readonly lastMs: number
  readonly medianMs: number
  readonly firstMs: number
  /** What no protocol can beat (Mundinger, Weber, Weiss), milliseconds. */
  readonly boundMs: number
  /** Copies that the seed sent. */
  readonly seedCopies: number
  /** Chunk bytes that arrived in vain, over all that were needed. */
  readonly wasted: number
}

const CHUNK_BYTES = 65_536
const MESSAGE_BYTES = 100

type Node = {
  readonly engine: ExchangeEngine
  readonly neighbours: Set<number>
  readonly have: Bitmap
  up: boolean
  sendFreeMs: number
  receiveFreeMs: number
  doneMs: number | undefined
  /** Raised at every cut: what was under way before is lost. */
  life: number
}

/**
 * Runs the exchange engine that devices run, many times, on a network of which only rates, latency and cuts are
 * modelled: chunks leave a device one after another, arrive one after another, messages are small.
 */
export class SwarmSimulator {
  readonly #scenario: SwarmScenario
  readonly #queue = new EventQueue()
  readonly #random: () => number
  readonly #index: ChunkIndex
  readonly #nodes: readonly Node[]
  readonly #payload = new Uint8Array(CHUNK_BYTES)
  #mediumFreeMs = 0
  #seedChunks = 0
  #arrived = 0
  #done = 0

  constructor(scenario: SwarmScenario) {
    this.#scenario = scenario
    this.#random = seededRandom(scenario.seed)
    this.#index = encodeChunkIndex(
      Array.from({ length: scenario.chunks }, (_, at) => ({
        sha256: createHash('sha256').update(String(at)).digest(),
        lengthBytes: CHUNK_BYTES,
      })),
    )
    this.#nodes = Array.from({ length: scenario.devices }, (_, at) => ({
      engine: new ExchangeEngine(this.#random),
      neighbours: new Set<number>(),
      have: at === 0 ? Bitmap.full(scenario.chunks) : new Bitmap(scenario.chunks),
      up: true,
      sendFreeMs: 0,
      receiveFreeMs: 0,
      doneMs: at === 0 ? 0 : undefined,
      life: 0,
    }))
    this.#join()
  }

  run(endMs = 3_600_000): SwarmResult {
    this.#nodes.forEach((node, at) => {
      if (at === 0) this.#step(at, { type: 'offer-artifact', index: this.#index, have: node.have })
      else this.#step(at, { type: 'want-artifact', index: this.#index, have: node.have, priority: 0 })
      for (const other of node.neighbours) this.#peerJoined(at, other)
      this.#tick(at)
    })
    if (this.#scenario.churnEveryMs > 0) this.#queue.after(this.#scenario.churnEveryMs, () => this.#churn())
    this.#queue.run(endMs, () => this.#done === this.#nodes.length - 1)
    const times = this.#nodes
      .slice(1)
      .map((node) => node.doneMs ?? Number.POSITIVE_INFINITY)
      .sort((a, b) => a - b)
    const needed = this.#scenario.chunks * (this.#nodes.length - 1)
    return {
      finished: this.#done,
      firstMs: times[0] ?? 0,
      medianMs: times[times.length >> 1] ?? 0,
      lastMs: times.at(-1) ?? 0,
      boundMs: this.#bound(),
      seedCopies: this.#seedChunks / this.#scenario.chunks,
      wasted: (this.#arrived - needed) / needed,
    }
  }

  /** F / min(u_seed, (u_seed + Σu) / N, d_min); every copy for a station crosses the medium, from another station twice. */
  #bound(): number {
    const { chunks, devices, rate, sharedRate, wired } = this.#scenario
    const bytes = chunks * CHUNK_BYTES
    const stations = this.#nodes.filter((_, at) => at > 0 && !wired(at)).length
    if (sharedRate > 0) return Math.max((bytes * stations * (wired(0) ? 1 : 2)) / sharedRate, bytes / rate(0))
    const rates = this.#nodes.map((_, at) => rate(at))
    const sum = rates.reduce((total, one) => total + one, 0)
    return bytes / Math.min(rate(0), sum / (devices - 1), ...rates.slice(1))
  }

  #join(): void {
    const { devices, opens } = this.#scenario
    const link = (a: number, b: number) => {
      if (a === b) return
      this.#nodes[a]?.neighbours.add(b)
      this.#nodes[b]?.neighbours.add(a)
    }
    for (let at = 0; at < devices; at += 1) {
      if (opens === 0) for (let other = 0; other < at; other += 1) link(at, other)
      // A ring first, so that no device is left out.
      else {
        link(at, (at + 1) % devices)
        for (let n = 1; n < opens; n += 1) link(at, Math.floor(this.#random() * devices))
      }
    }
  }

  #tick(at: number): void {
    this.#queue.after(this.#random() * 250, () => {
      const again = () => {
        this.#step(at, { type: 'tick' })
        this.#queue.after(250, again)
      }
      again()
    })
  }

  #churn(): void {
    const at = 1 + Math.floor(this.#random() * (this.#nodes.length - 1))
    const node = this.#nodes[at]
    if (node?.up === true) {
      node.up = false
      node.life += 1
      for (const other of node.neighbours) {
        this.#step(other, { type: 'peer-left', peer: String(at) })
        this.#step(at, { type: 'peer-left', peer: String(other) })
      }
      this.#queue.after(this.#scenario.awayMs, () => {
        node.up = true
        for (const other of node.neighbours) {
          if (this.#nodes[other]?.up !== true) continue
          this.#peerJoined(other, at)
          this.#peerJoined(at, other)
        }
      })
    }
    this.#queue.after(this.#scenario.churnEveryMs, () => this.#churn())
  }

  #peerJoined(at: number, other: number): void {
    this.#step(at, { type: 'peer-joined', peer: String(other), radioHops: this.#radioHops(at, other) })
  }

  #radioHops(a: number, b: number): RadioHops {
    const { sharedRate, wired } = this.#scenario
    const stations = [a, b].filter((device) => !wired(device)).length
    return sharedRate === 0 || stations === 0 ? 0 : stations === 1 ? 1 : 2
  }

  #step(at: number, input: ExchangeInput): void {
    const node = this.#nodes[at]
    for (const effect of node?.engine.step(input, this.#queue.nowMs) ?? []) this.#run(at, effect)
  }

  #run(at: number, effect: ExchangeEffect): void {
    switch (effect.type) {
      case 'send':
        this.#deliver(at, Number(effect.peer), effect.message, MESSAGE_BYTES)
        break
      case 'serve': {
        const message = {
          type: 'chunk',
          artifact: effect.artifact,
          chunk: effect.chunk,
          payload: this.#payload,
        } as const
        if (at === 0) this.#seedChunks += 1
        const leftMs = this.#deliver(at, Number(effect.peer), message, CHUNK_BYTES)
        this.#queue.after(leftMs - this.#queue.nowMs, () => this.#step(at, { type: 'sent', peer: effect.peer }))
        break
      }
      case 'store':
        this.#nodes[at]?.have.add(effect.chunk)
        this.#queue.after(1, () =>
          this.#step(at, { type: 'chunk-stored', artifact: effect.artifact, chunk: effect.chunk, from: effect.from }),
        )
        break
      case 'complete': {
        const node = this.#nodes[at]
        if (node !== undefined && node.doneMs === undefined) {
          node.doneMs = this.#queue.nowMs
          this.#done += 1
        }
        break
      }
      case 'ban':
        throw new Error(`device ${at} banned ${effect.peer}: ${effect.reason}`)
    }
  }

  /** @returns when the last byte has left the sender */
  #deliver(from: number, to: number, message: ExchangeMessage, bytes: number): number {
    const [sender, receiver] = [this.#nodes[from], this.#nodes[to]]
    if (sender === undefined || receiver === undefined) return this.#queue.nowMs
    const { rate, sharedRate, latencyMs } = this.#scenario
    const nowMs = this.#queue.nowMs
    let leftMs: number
    let arrivedMs: number
    if (bytes <= MESSAGE_BYTES) {
      leftMs = nowMs // small ones overtake bulk, as on a connection of their own
      arrivedMs = nowMs + latencyMs
    } else if (this.#radioHops(from, to) > 0) {
      sender.sendFreeMs = Math.max(nowMs, sender.sendFreeMs) + bytes / rate(from)
      const airtimeMs = (this.#radioHops(from, to) * bytes) / sharedRate
      this.#mediumFreeMs = Math.max(sender.sendFreeMs, this.#mediumFreeMs + airtimeMs)
      leftMs = this.#mediumFreeMs
      arrivedMs = leftMs + latencyMs
    } else {
      sender.sendFreeMs = Math.max(nowMs, sender.sendFreeMs) + bytes / rate(from)
      leftMs = sender.sendFreeMs
      receiver.receiveFreeMs = Math.max(leftMs, receiver.receiveFreeMs + bytes / rate(to))
      arrivedMs = receiver.receiveFreeMs + latencyMs
    }
    const lives = [sender.life, receiver.life]
    this.#queue.after(arrivedMs - nowMs, () => {
      if (sender.life !== lives[0] || receiver.life !== lives[1] || !sender.up || !receiver.up) return
      if (message.type === 'chunk') this.#arrived += 1
      this.#step(to, { type: 'message', peer: String(from), message })
    })
    return leftMs
  }
}
