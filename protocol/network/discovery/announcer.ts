import { createSocket, type Socket } from 'node:dgram'
import { readFileSync } from 'node:fs'
import { networkInterfaces } from 'node:os'
import { type Advertisement, encodeAdvertisement, encodeQuery, parsePacket } from './service-packet.ts'

export type AnnouncerOptions = {
  readonly id: string
  readonly name: string
  readonly fleet: string
  /** False: only look who is there. */
  readonly announce: boolean
  /** TCP port of the family, 0 when it does not listen there. */
  readonly port: (family: 4 | 6) => number
  /** Only these interfaces; all when empty. */
  readonly interfaces: readonly string[]
  readonly onHeard: (service: Advertisement) => void
  readonly random: () => number
}

type Link = {
  readonly socket: Socket
  readonly family: 4 | 6
  readonly name: string
  readonly address: string
  lastSentMs: number
  pending: boolean
}

const MDNS_PORT = 5353
const GROUP = { 4: '224.0.0.251', 6: 'ff02::fb' } as const
const RESCAN_MS = 2_000
const MIN_INTERVAL_MS = 8_000

/**
 * Says on every interface, over IPv4 and IPv6, that this device is there, and hears who else is.
 * One socket per interface and family, so no route is needed; each device multicasts at most once a second and
 * the interval grows with the number of devices heard, so traffic is linear in the size of the fleet.
 * @see protocol/spec/network.md, "Discovery"
 */
export class Announcer {
  readonly #options: AnnouncerOptions
  readonly #links = new Map<string, Link>()
  readonly #heard = new Set<string>()
  #timers: NodeJS.Timeout[] = []
  #stopped = false

  constructor(options: AnnouncerOptions) {
    this.#options = options
  }

  start(): void {
    this.#rescan()
    const rescan = setInterval(() => this.#rescan(), RESCAN_MS)
    rescan.unref()
    this.#timers.push(rescan)
    if (this.#options.announce) this.#announceLater()
  }

  /** Says goodbye and closes the sockets. */
  stop(): void {
    if (this.#options.announce)
      for (const link of this.#links.values()) this.#send(link, encodeAdvertisement(this.#advertisement(link), 0))
    this.#stopped = true
    for (const timer of this.#timers) clearTimeout(timer)
    for (const link of this.#links.values()) setTimeout(() => closeQuietly(link.socket), 20)
    this.#links.clear()
  }

  #announceLater(): void {
    const heard = this.#heard.size
    this.#heard.clear()
    const interval = Math.max(MIN_INTERVAL_MS, heard * 200) * (0.75 + this.#options.random() * 0.5)
    const timer = setTimeout(() => {
      for (const link of this.#links.values()) this.#announce(link)
      if (!this.#stopped) this.#announceLater()
    }, interval)
    timer.unref()
    this.#timers = [...this.#timers.slice(0, 1), timer]
  }

  #rescan(): void {
    if (this.#stopped) return
    const present = new Map<string, { name: string; family: 4 | 6; address: string }>()
    for (const [name, entries] of Object.entries(networkInterfaces())) {
      if (this.#options.interfaces.length > 0 && !this.#options.interfaces.includes(name)) continue
      for (const entry of entries ?? []) {
        const family = entry.family === 'IPv4' ? 4 : 6
        if (entry.internal || (family === 6 && !entry.address.startsWith('fe80:'))) continue
        if (this.#options.announce && this.#options.port(family) === 0) continue
        present.set(`${name} ${interfaceIndex(name)} ${entry.address}`, { name, family, address: entry.address })
      }
    }
    for (const [key, link] of this.#links) {
      if (present.has(key)) continue
      closeQuietly(link.socket)
      this.#links.delete(key)
    }
    for (const [key, found] of present) if (!this.#links.has(key)) this.#open(key, found)
  }

  #open(key: string, { name, family, address }: { name: string; family: 4 | 6; address: string }): void {
    const socket = createSocket({
      type: family === 4 ? 'udp4' : 'udp6',
      reuseAddr: true,
      ...(family === 6 ? { ipv6Only: true } : {}),
    })
    const link: Link = { socket, family, name, address, lastSentMs: 0, pending: false }
    this.#links.set(key, link)
    const drop = () => {
      closeQuietly(socket)
      if (this.#links.get(key) === link) this.#links.delete(key) // opened again by the next scan
    }
    socket.on('error', drop)
    socket.on('message', (bytes, from) => this.#received(link, bytes, from.address))
    socket.bind(MDNS_PORT, family === 4 ? '0.0.0.0' : '::', () => {
      try {
        const local = family === 4 ? address : `::%${name}`
        socket.addMembership(GROUP[family], local)
        socket.setMulticastInterface(local)
        socket.setMulticastTTL(255)
        socket.setMulticastLoopback(true)
        this.#send(link, encodeQuery())
        this.#announce(link)
      } catch {
        drop()
      }
    })
    socket.unref()
  }

  #received(link: Link, bytes: Uint8Array, from: string): void {
    let heard: ReturnType<typeof parsePacket>
    try {
      heard = parsePacket(bytes)
    } catch {
      return // anybody may send anything here; it must not even cost a log line
    }
    for (const service of heard.services) {
      if (service.id === this.#options.id || service.fleet !== this.#options.fleet) continue
      if (this.#heard.size < 10_000) this.#heard.add(service.id)
      const addresses = [...new Set([from, ...service.addresses])].filter((address) => !isLinkLocal(address))
      if (addresses.length > 0) this.#options.onHeard({ ...service, addresses })
    }
    if (!link.pending && heard.asksFor(this.#options)) {
      link.pending = true
      const wait = Math.max(20 + this.#options.random() * 100, link.lastSentMs + 1_000 - performance.now())
      setTimeout(() => {
        link.pending = false
        this.#announce(link)
      }, wait).unref()
    }
  }

  #announce(link: Link): void {
    if (!this.#options.announce) return
    link.lastSentMs = performance.now()
    this.#send(link, encodeAdvertisement(this.#advertisement(link)))
  }

  #advertisement(link: Link): Advertisement {
    return {
      id: this.#options.id,
      name: this.#options.name,
      fleet: this.#options.fleet,
      port: this.#options.port(link.family),
      addresses: this.#addressesOf(link),
    }
  }

  /** All addresses of the interface at which the port of the link's family is open. */
  #addressesOf(link: Link): readonly string[] {
    const samePort = this.#options.port(4) === this.#options.port(6)
    return (networkInterfaces()[link.name] ?? [])
      .filter((entry) => !isLinkLocal(entry.address) && (samePort || entry.family === `IPv${link.family}`))
      .map((entry) => entry.address)
      .slice(0, 8)
  }

  #send(link: Link, packet: Buffer): void {
    if (this.#stopped) return
    const group = link.family === 4 ? GROUP[4] : `${GROUP[6]}%${link.name}`
    try {
      // A link that is down answers with an error; the next announcement tries again.
      link.socket.send(packet, MDNS_PORT, group, () => {})
    } catch {
      // socket closed by the rescan
    }
  }
}

// libp2p 3.3 drops connections whose remote address has a zone (measured: its ip-port-to-multiaddr refuses `%eth0`), so
// link-local addresses are good for being heard but not for being dialled; IPv6 needs a ULA or global address.
function isLinkLocal(address: string): boolean {
  return address.startsWith('fe80:')
}

// Tells an interface that was taken away and made again with the same address from the one before.
function interfaceIndex(name: string): string {
  try {
    return readFileSync(`/sys/class/net/${name}/ifindex`, 'latin1').trim()
  } catch {
    return ''
  }
}

function closeQuietly(socket: Socket): void {
  try {
    socket.close()
  } catch {
    // closed already
  }
}
