import type { Connection } from '@libp2p/interface'
import type { Member } from './fleet-node.ts'

const AGAIN_MS = 3_000
const TURNED_AWAY_MS = 60_000

/** A multiaddr without the peer id at its end. */
export function withoutPeer(address: string): string {
  return address.replace(/\/p2p\/.*$/, '')
}

/** Addresses that the owner named: dialled again and again, whoever answers there. */
export class StaticPeers {
  readonly #addresses: readonly string[]
  readonly #dial: (address: string) => Promise<Connection>
  readonly #nextMs = new Map<string, number>()
  /** Who answered there last: a device may be connected under another address. */
  readonly #ids = new Map<string, string>()

  constructor(addresses: readonly string[], dial: (address: string) => Promise<Connection>) {
    this.#addresses = addresses
    this.#dial = dial
  }

  isOne({ id, address }: Pick<Member, 'id' | 'address'>): boolean {
    return this.#addresses.includes(address) || this.#addresses.some((named) => this.#ids.get(named) === id)
  }

  /** Dials those that are due and not connected. */
  tick(members: readonly Member[], nowMs: number): void {
    for (const address of this.#addresses) {
      const connected = members.some((member) => member.address === address || this.#ids.get(address) === member.id)
      if (connected || (this.#nextMs.get(address) ?? 0) > nowMs) continue
      this.#nextMs.set(address, nowMs + AGAIN_MS + Math.random() * 2_000)
      this.#dial(address)
        .then((connection) => this.#ids.set(address, connection.remotePeer.toString()))
        .catch(() => {}) // out of reach now; tried again
    }
  }

  /** One with neighbours enough is not asked again every few seconds. */
  turnedAwayBy({ remoteAddr }: Connection, nowMs: number): void {
    const address = withoutPeer(remoteAddr.toString())
    if (this.#addresses.includes(address)) this.#nextMs.set(address, nowMs + TURNED_AWAY_MS)
  }
}
