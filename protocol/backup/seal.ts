import { createHash } from 'node:crypto'
import nacl from 'tweetnacl'
import { FlotillaError } from '../errors.ts'

/** Longest sealed text in hex: a key, a nonce, an authenticator and a password. */
export const MAX_SEALED_HEX = 512
const DOMAIN = 'flotilla backup seal\0'

/** A key pair for sealing, X25519. */
export type SealPair = { readonly publicHex: string; readonly secret: Uint8Array }

/** The sealing key of a device: follows from its identity, so that it needs no custody of its own. @param seed - 32 secret bytes */
export function sealPairOf(seed: Uint8Array): SealPair {
  const secret = createHash('sha512').update(DOMAIN).update(seed).digest().subarray(0, nacl.box.secretKeyLength)
  return sealPair(secret)
}

/** @param secret - 32 bytes */
export function sealPair(secret: Uint8Array): SealPair {
  const { publicKey, secretKey } = nacl.box.keyPair.fromSecretKey(Uint8Array.from(secret))
  return { publicHex: Buffer.from(publicKey).toString('hex'), secret: secretKey }
}

/**
 * Seals a text so that only the holder of one secret key can read it: `throw-away public key ‖ nonce ‖ box`, hex.
 * @param publicHex - X25519, 64 hex digits
 * @see tweetnacl, `nacl.box` (X25519, XSalsa20, Poly1305)
 */
export function seal(text: string, publicHex: string): string {
  const own = nacl.box.keyPair()
  const nonce = nacl.randomBytes(nacl.box.nonceLength)
  const box = nacl.box(
    Uint8Array.from(Buffer.from(text)),
    nonce,
    Uint8Array.from(Buffer.from(publicHex, 'hex')),
    own.secretKey,
  )
  return Buffer.concat([own.publicKey, nonce, box]).toString('hex')
}

/** @throws FlotillaError VERIFY_FAILED when it was sealed to another key, or is damaged */
export function unseal(sealed: string, secret: Uint8Array): string {
  const bytes = Uint8Array.from(Buffer.from(sealed, 'hex'))
  const nonceAt = nacl.box.publicKeyLength
  const boxAt = nonceAt + nacl.box.nonceLength
  const opened =
    bytes.length <= boxAt
      ? null
      : nacl.box.open(bytes.subarray(boxAt), bytes.subarray(nonceAt, boxAt), bytes.subarray(0, nonceAt), secret)
  if (opened === null)
    throw new FlotillaError('VERIFY_FAILED', 'open a sealed password: it was sealed to another key, or it is damaged')
  return Buffer.from(opened).toString()
}
