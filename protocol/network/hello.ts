import { multiaddr } from '@multiformats/multiaddr'
import { FlotillaError, type ErrorCode } from '../errors.ts'
import { MAX_CERTIFICATE_BYTES } from '../membership/certificate.ts'
import { parseJson, shape } from '../shape.ts'
import type { KnownPeer } from './dialer.ts'

/** Versions of the trust metadata that a device holds: enough to see who is ahead. */
export type TrustVersions = { readonly root: number; readonly timestamp: number }

/** The first message in each direction of a connection. */
export type Hello =
  | {
      readonly type: 'hello'
      readonly certificate: Uint8Array
      readonly trust: TrustVersions
      /** Multiaddrs under which the sender says it listens; a claim, only ever used to dial. */
      readonly addresses: readonly string[]
      /** The sender's end of this connection is a radio. */
      readonly radio: boolean
    }
  /** With BUSY: some others that may have room. */
  | { readonly type: 'refused'; readonly code: ErrorCode; readonly peers: readonly KnownPeer[] }

/** Largest hello, bytes. */
export const MAX_HELLO_BYTES = 4_096
/** Peers that a refusal names. */
export const MAX_HELLO_PEERS = 8

export function encodeHello(hello: Hello): Uint8Array {
  const json =
    hello.type === 'refused' ? hello : { ...hello, certificate: Buffer.from(hello.certificate).toString('base64') }
  return Buffer.from(JSON.stringify(json))
}

/** @throws FlotillaError LENGTH, FORMAT */
export function parseHello(bytes: Uint8Array): Hello {
  const json = shape.object(parseJson(bytes, 'hello', MAX_HELLO_BYTES), 'hello')
  if (json['type'] === 'refused') {
    return {
      type: 'refused',
      code: shape.oneOf(json['code'], 'hello: code', ['NOT_A_MEMBER', 'REVOKED', 'FORMAT', 'BUSY']),
      peers: shape.array(json['peers'] ?? [], 'hello: peers', MAX_HELLO_PEERS).map((item) => parseKnownPeer(item)),
    }
  }
  if (json['type'] !== 'hello') throw new FlotillaError('FORMAT', 'hello: of an unknown type')
  const trust = shape.object(json['trust'], 'hello: trust')
  return {
    type: 'hello',
    certificate: Buffer.from(
      shape.string(json['certificate'], 'hello: certificate', MAX_CERTIFICATE_BYTES * 2),
      'base64',
    ),
    trust: {
      root: shape.integer(trust['root'], 'hello: trust.root', 0),
      timestamp: shape.integer(trust['timestamp'], 'hello: trust.timestamp', 0),
    },
    addresses: shape.array(json['addresses'], 'hello: addresses', 8).map((item) => parseAddress(item)),
    radio: shape.boolean(json['radio'] ?? false, 'hello: radio'),
  }
}

/** @throws FlotillaError FORMAT */
export function parseKnownPeer(value: unknown): KnownPeer {
  const peer = shape.object(value, 'peers[]')
  const id = shape.matching(peer['id'], 'peers[].id', /^[1-9A-HJ-NP-Za-km-z]{40,64}$/, 'a peer id')
  return { id, addresses: shape.array(peer['addresses'], 'peers[].addresses', 8).map(parseAddress) }
}

/** A multiaddr of a TCP listener, checked as far as we dial it. @throws FlotillaError FORMAT */
export function parseAddress(value: unknown): string {
  const text = shape.matching(
    value,
    'address',
    /^\/(ip4|ip6|dns[46]?)\/[\w.:-]{1,253}\/tcp\/\d{1,5}$/,
    'an address such as /ip4/192.168.1.7/tcp/4848',
  )
  try {
    multiaddr(text)
  } catch (cause) {
    throw new FlotillaError('FORMAT', `address ${text}: not a valid multiaddr`, { cause })
  }
  if (Number(text.split('/').at(-1)) > 65_535) throw new FlotillaError('FORMAT', `address ${text}: no such port`)
  return text
}
