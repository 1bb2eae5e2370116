import { FlotillaError } from '../errors.ts'
import { publicKeyOf } from '../network/identity.ts'
import { NAME_PATTERN, parseJson, shape } from '../shape.ts'
import { canonicalJson, sortedJson } from '../trust/canonical-json.ts'
import { verifyEd25519 } from '../trust/public-key.ts'
import type { FleetPolicy } from './fleet-policy.ts'

/** What a member may do. `sync`: take part; `courier`: carry other boards' releases; `operator`: seed and look at the fleet. */
export const CAPABILITIES = ['sync', 'serve', 'courier', 'operator'] as const
export type Capability = (typeof CAPABILITIES)[number]

/**
 * Admits one device to one fleet. It has no dates: it holds while its epoch is at least the policy's `minEpoch` and
 * the device is not in `revoked`, so a robot without a clock can judge it (facts/trust.md 4.8).
 */
export type Certificate = {
  readonly fleet: string
  readonly device: string
  readonly name: string
  readonly board: string
  readonly capabilities: readonly Capability[]
  readonly serial: number
  readonly epoch: number
}
export type SignedCertificate = {
  readonly bytes: Uint8Array
  readonly certificate: Certificate
  readonly ca: string
  readonly signature: Uint8Array
}

/** A certificate on the wire: at most this many bytes. */
export const MAX_CERTIFICATE_BYTES = 1_024

/** Makes and signs a certificate. @param sign - signs with the fleet CA key whose public half is `ca` (hex) */
export function signCertificate(
  certificate: Certificate,
  ca: string,
  sign: (message: Uint8Array) => Uint8Array,
): Uint8Array {
  const signed = { type: 'flotilla-certificate', ...certificate }
  return sortedJson({ signed, ca, sig: Buffer.from(sign(canonicalJson(signed))).toString('hex') })
}

/** Parses a certificate without judging it. @throws FlotillaError LENGTH, FORMAT */
export function parseCertificate(bytes: Uint8Array): SignedCertificate {
  const what = 'certificate'
  const json = shape.object(parseJson(bytes, what, MAX_CERTIFICATE_BYTES), what)
  const signed = shape.object(json['signed'], `${what}: signed`)
  if (signed['type'] !== 'flotilla-certificate') throw new FlotillaError('FORMAT', 'certificate: of another type')
  const name = (key: string) => shape.matching(signed[key], `${what}: ${key}`, NAME_PATTERN, 'a plain lower-case name')
  return {
    bytes,
    certificate: {
      fleet: name('fleet'),
      device: shape.string(signed['device'], `${what}: device`, 128),
      name: name('name'),
      board: name('board'),
      capabilities: shape
        .array(signed['capabilities'], `${what}: capabilities`, 16)
        .map((item) => shape.oneOf(item, `${what}: capabilities[]`, CAPABILITIES)),
      serial: shape.integer(signed['serial'], `${what}: serial`, 0),
      epoch: shape.integer(signed['epoch'], `${what}: epoch`, 0),
    },
    ca: shape.hex32(json['ca'], `${what}: ca`),
    signature: Buffer.from(
      shape.matching(json['sig'], `${what}: sig`, /^[0-9a-f]{128}$/, '64 bytes in hexadecimal'),
      'hex',
    ),
  }
}

/**
 * Judges a certificate shown by `peer` under the fleet's policy.
 * @throws FlotillaError NOT_A_MEMBER (other fleet, other key, unknown CA, bad signature, old epoch), REVOKED
 */
export function admit(signed: SignedCertificate, peer: string, policy: FleetPolicy): Certificate {
  const { certificate } = signed
  const refuse = (why: string): never => {
    throw new FlotillaError('NOT_A_MEMBER', `admit ${peer}: ${why}`)
  }
  if (certificate.device !== peer) refuse('the certificate is for another device')
  if (certificate.fleet !== policy.fleet) refuse(`its fleet is ${certificate.fleet}, this one is ${policy.fleet}`)
  if (!policy.caKeys.includes(signed.ca)) refuse('signed by a key that is not a CA of this fleet')
  const message = canonicalJson({ type: 'flotilla-certificate', ...certificate })
  if (!verifyEd25519(Buffer.from(signed.ca, 'hex'), message, signed.signature)) refuse('the signature is wrong')
  if (certificate.epoch < policy.minEpoch)
    refuse(`epoch ${certificate.epoch} is below ${policy.minEpoch}; enrol it again`)
  if (policy.revoked.includes(peer)) throw new FlotillaError('REVOKED', `admit ${peer}: revoked by the fleet's policy`)
  publicKeyOf(peer)
  return certificate
}
