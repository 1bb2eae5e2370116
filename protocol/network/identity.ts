import { createPrivateKey, createPublicKey, sign } from 'node:crypto'
import { privateKeyFromRaw } from '@libp2p/crypto/keys'
import type { PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id'
import { FlotillaError } from '../errors.ts'

/** One Ed25519 key is a device's identity everywhere: libp2p peer id, record signatures, certificate. */
export type Identity = {
  /** The libp2p peer id, `12D3Koo…`. */
  readonly id: string
  /** The Ed25519 public key, 64 hex digits. */
  readonly publicHex: string
  readonly privateKey: PrivateKey
  readonly sign: (message: Uint8Array) => Uint8Array
}

// PrivateKeyInfo header of an Ed25519 seed: RFC 8410, section 7.
const ED25519_PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex')

/** @param seed - 32 secret bytes */
export function identityFromSeed(seed: Uint8Array): Identity {
  const key = createPrivateKey({ key: Buffer.concat([ED25519_PKCS8_PREFIX, seed]), format: 'der', type: 'pkcs8' })
  const publicKey = createPublicKey(key).export({ format: 'der', type: 'spki' }).subarray(-32)
  const privateKey = privateKeyFromRaw(Buffer.concat([seed, publicKey]))
  const id = peerIdFromPrivateKey(privateKey).toString()
  return { id, publicHex: publicKey.toString('hex'), privateKey, sign: (message) => sign(null, message, key) }
}

/** The 32 bytes of the Ed25519 key that a device id stands for. @throws FlotillaError FORMAT */
export function publicKeyOf(deviceId: string): Uint8Array {
  try {
    const publicKey = peerIdFromString(deviceId).publicKey
    if (publicKey?.type === 'Ed25519') return publicKey.raw
  } catch {
    // falls through to the same refusal
  }
  throw new FlotillaError('FORMAT', `device id ${deviceId.slice(0, 64)}: not an Ed25519 peer id`)
}
