import { type Answer, decode, encode, type Packet } from 'dns-packet'
import { messageOf, FlotillaError } from '../../errors.ts'

/** What a device says of itself on the local link. */
export type Advertisement = {
  readonly id: string
  readonly name: string
  readonly fleet: string
  readonly port: number
  readonly addresses: readonly string[]
}

/** The DNS-SD service type (RFC 6763); `avahi-browse _flotilla._tcp` lists it. */
export const SERVICE = '_flotilla._tcp.local'
const META_SERVICE = '_services._dns-sd._udp.local'
const TTL_SECONDS = 120
// RFC 6762, 10.2: tells caches that this is the whole set of records of the name.
const FLUSH = true

/** A multicast DNS packet that asks who is there. */
export function encodeQuery(): Buffer {
  return encode({ type: 'query', id: 0, questions: [{ type: 'PTR', name: SERVICE }] })
}

/** A multicast DNS answer with everything needed to resolve the service. @param ttlSeconds - 0 says goodbye */
export function encodeAdvertisement(ad: Advertisement, ttlSeconds = TTL_SECONDS): Buffer {
  const instance = instanceName(ad)
  const host = `flotilla-${ad.id.slice(-12).toLowerCase()}.local`
  const text = [`id=${ad.id}`, `fleet=${ad.fleet}`, `name=${ad.name}`]
  const answers: Answer[] = [
    { type: 'PTR', name: SERVICE, ttl: ttlSeconds, data: instance },
    { type: 'PTR', name: META_SERVICE, ttl: ttlSeconds, data: SERVICE },
    {
      type: 'SRV',
      name: instance,
      ttl: ttlSeconds,
      flush: FLUSH,
      data: { port: ad.port, target: host, priority: 0, weight: 0 },
    },
    { type: 'TXT', name: instance, ttl: ttlSeconds, flush: FLUSH, data: text },
    ...ad.addresses.map(
      (address): Answer => ({
        type: address.includes(':') ? 'AAAA' : 'A',
        name: host,
        ttl: ttlSeconds,
        flush: FLUSH,
        data: address,
      }),
    ),
  ]
  return encode({ type: 'response', id: 0, flags: 1 << 10, answers })
}

function instanceName(ad: Pick<Advertisement, 'id' | 'name'>): string {
  return `${ad.name}-${ad.id.slice(-6)}.${SERVICE}`
}

/** What a packet from the link says: somebody asks for us, or somebody is there. */
export type Heard = {
  readonly asksFor: (ad: Pick<Advertisement, 'id' | 'name'>) => boolean
  readonly services: readonly Advertisement[]
}

/** Largest packet that is looked at: RFC 6762, 17. */
const MAX_PACKET_BYTES = 9_000

/**
 * Parses a multicast DNS packet from anybody. Malformed packets are an error of their own, one bad record in a
 * packet is skipped.
 * @throws FlotillaError BAD_FRAME
 */
export function parsePacket(bytes: Uint8Array): Heard {
  if (bytes.length > MAX_PACKET_BYTES) throw new FlotillaError('BAD_FRAME', 'mDNS packet: longer than 9000 bytes')
  let packet: Packet
  try {
    packet = decode(Buffer.from(bytes))
  } catch (cause) {
    throw new FlotillaError('BAD_FRAME', `mDNS packet: ${messageOf(cause)}`, { cause })
  }
  const questions = packet.type === 'query' ? (packet.questions ?? []) : []
  const names = new Set(questions.map((question) => question.name.toLowerCase()))
  return {
    asksFor: (ad) =>
      names.has(SERVICE) ||
      names.has(META_SERVICE) ||
      names.has(instanceName(ad).toLowerCase()) ||
      names.has(`flotilla-${ad.id.slice(-12).toLowerCase()}.local`),
    services: packet.type === 'response' ? servicesIn([...(packet.answers ?? []), ...(packet.additionals ?? [])]) : [],
  }
}

const MAX_SERVICES = 32
const MAX_TEXTS = 16
const MAX_ADDRESSES = 8

// Everybody on the link may send this: one pass over the records, and no more of each than is used.
function servicesIn(answers: readonly Answer[]): Advertisement[] {
  const texts = new Map<string, Map<string, string>>()
  const addresses = new Map<string, string[]>()
  for (const answer of answers) {
    if (answer.type === 'TXT' && !texts.has(answer.name)) texts.set(answer.name, readText(answer.data))
    if (answer.type !== 'A' && answer.type !== 'AAAA') continue
    const known = addresses.get(answer.name) ?? []
    if (known.length < MAX_ADDRESSES) addresses.set(answer.name, [...known, answer.data])
  }
  const services = new Map<string, Advertisement>()
  for (const answer of answers) {
    if (services.size >= MAX_SERVICES) break
    if (answer.type !== 'SRV' || answer.ttl === 0 || services.has(answer.name)) continue
    if (!answer.name.toLowerCase().endsWith(`.${SERVICE}`)) continue
    const text = texts.get(answer.name)
    const id = text?.get('id')
    if (id === undefined || !/^[1-9A-HJ-NP-Za-km-z]{40,64}$/.test(id)) continue
    services.set(answer.name, {
      id,
      name: (text?.get('name') ?? '').slice(0, 64),
      fleet: (text?.get('fleet') ?? '').slice(0, 64),
      port: answer.data.port,
      addresses: addresses.get(answer.data.target) ?? [],
    })
  }
  return [...services.values()]
}

function readText(data: unknown): Map<string, string> {
  const texts = new Map<string, string>()
  for (const item of (Array.isArray(data) ? data : [data]).slice(0, MAX_TEXTS)) {
    const [key, ...rest] = (item instanceof Uint8Array ? Buffer.from(item).toString('utf8') : String(item)).split('=')
    if (key !== undefined && rest.length > 0) texts.set(key, rest.join('=').slice(0, 128))
  }
  return texts
}
