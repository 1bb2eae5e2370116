import { isIPv4, isIPv6 } from 'node:net'
import { FlotillaError } from '../../protocol/errors.ts'
import { Announcer } from '../../protocol/network/discovery/announcer.ts'
import { toMultiaddr } from '../../protocol/network/build-libp2p.ts'

const DEFAULT_PORT = 4848

/** A device as found: addresses that may be dialled, best first. */
export type FoundDevice = {
  readonly name: string
  readonly addresses: readonly string[]
  /** It was there a moment ago; a bare address may be anybody's. */
  readonly hasAnswered: boolean
}

/**
 * Finds a device by multiaddr, `host:port`, `host`, id, or name. Names and ids are looked up by mDNS on all links.
 * @throws FlotillaError NOT_FOUND with the names that did answer
 */
export async function findDevice(
  device: string,
  fleet: string,
  interfaces: readonly string[],
  timeoutMs = 8_000,
): Promise<FoundDevice> {
  const address = parseAddressText(device)
  if (address !== undefined) return { name: device, addresses: [address], hasAnswered: false }
  const heard = new Map<string, FoundDevice>()
  let found: (device: FoundDevice) => void = () => {}
  const answer = new Promise<FoundDevice>((resolve) => {
    found = resolve
  })
  const announcer = new Announcer({
    id: '',
    name: '',
    fleet,
    announce: false,
    port: () => 0,
    interfaces,
    random: Math.random,
    onHeard: (ad) => {
      const addresses = ad.addresses.map((host) => toMultiaddr(host, ad.port))
      const entry = { name: ad.name, addresses, hasAnswered: true }
      heard.set(ad.name, entry)
      if (ad.name === device || ad.id === device) found(entry)
    },
  })
  announcer.start()
  const timeout = new Promise<undefined>((resolve) => setTimeout(() => resolve(undefined), timeoutMs))
  const result = await Promise.race([answer, timeout])
  announcer.stop()
  if (result === undefined) {
    throw new FlotillaError(
      'NOT_FOUND',
      `find device ${device}: it did not answer on the local links within ${timeoutMs / 1_000} s; heard: ${[...heard.keys()].sort().join(', ') || 'nobody'}. Give its address instead, such as 192.168.1.7:${DEFAULT_PORT}`,
    )
  }
  return result
}

function parseAddressText(text: string): string | undefined {
  if (text.startsWith('/')) return text
  const [, host = '', port = String(DEFAULT_PORT)] = /^(.*?)(?::(\d{1,5}))?$/.exec(text) ?? []
  if (isIPv4(host)) return toMultiaddr(host, Number(port))
  return isIPv6(text) ? toMultiaddr(text, DEFAULT_PORT) : undefined
}
