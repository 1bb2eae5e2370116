import { existsSync } from 'node:fs'
import { BlockList, isIPv4 } from 'node:net'
import { networkInterfaces } from 'node:os'

/** One address of an interface with its network, such as `{ name: 'wlan0', cidr: '10.0.0.7/24' }`. */
export type OwnLink = { readonly name: string; readonly cidr: string }

/** Addresses change when a robot moves; looking costs some 50 µs. */
const FRESH_MS = 10_000

/**
 * The interface whose network a host is in; of several the one with the smallest network, and `other` when there is none: then
 * it is behind a router. Pure.
 */
export function linkTowards(host: string, links: readonly OwnLink[]): string {
  const family = isIPv4(host) ? 'ipv4' : 'ipv6'
  const found = links
    .map(({ name, cidr }) => {
      const [network = '', prefix = ''] = cidr.split('/')
      return { name, network, prefix: Number(prefix) }
    })
    .filter(({ network, prefix }) => {
      if (isIPv4(network) !== (family === 'ipv4')) return false
      const list = new BlockList()
      list.addSubnet(network, prefix, family)
      return list.check(host, family)
    })
    .sort((a, b) => b.prefix - a.prefix)
  return found[0]?.name ?? 'other'
}

/** Knows over which interface each host is reached, and whether that is a radio, as of the last seconds. */
export class OwnLinks {
  readonly #radios: readonly string[]
  readonly #byHost = new Map<string, string>()
  #links: readonly OwnLink[] = []
  #lookedMs = -Infinity
  #isAllRadio = false

  /** @param radios - interfaces that are radios though Linux does not call them so, such as the wire to a radio bridge */
  constructor(radios: readonly string[] = []) {
    this.#radios = radios
  }

  /** @returns the interface's name, or `other` */
  towards(host: string): string {
    this.#look()
    const known = this.#byHost.get(host)
    if (known !== undefined) return known
    const name = linkTowards(host, this.#links)
    this.#byHost.set(host, name) // forgotten every ten seconds: never more than there are members
    return name
  }

  /** Whether a host is reached by radio; one behind a router is when there is nothing else. */
  isRadio(host: string): boolean {
    const name = this.towards(host)
    return name === 'other' ? this.#isAllRadio : this.#isRadioLink(name)
  }

  /** Every interface with an address is a radio. */
  get isAllRadio(): boolean {
    this.#look()
    return this.#isAllRadio
  }

  #look(): void {
    if (performance.now() - this.#lookedMs <= FRESH_MS) return
    this.#lookedMs = performance.now()
    this.#links = readLinks()
    this.#byHost.clear()
    const outside = this.#links.filter(({ name }) => name !== 'lo')
    this.#isAllRadio = outside.length > 0 && outside.every(({ name }) => this.#isRadioLink(name))
  }

  #isRadioLink(name: string): boolean {
    return this.#radios.includes(name) || existsSync(`/sys/class/net/${name}/phy80211`)
  }
}

function readLinks(): readonly OwnLink[] {
  return Object.entries(networkInterfaces()).flatMap(([name, addresses]) =>
    (addresses ?? []).flatMap(({ cidr }) => (cidr === null ? [] : [{ name, cidr }])),
  )
}
