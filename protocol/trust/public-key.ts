import { createHash, createPublicKey, type KeyObject, verify } from 'node:crypto'
import { FlotillaError } from '../errors.ts'
import { type JsonObject, shape } from '../shape.ts'
import { canonicalJson } from './canonical-json.ts'

/** Which signature schemes a client accepts: Flotilla devices take Ed25519 only; the conformance client takes all. */
export type KeyPolicy = 'ed25519-only' | 'all-key-types'

/** A public key of a role. `fingerprint` names the key itself, so that one key under two ids counts once (TAP 12). */
export type PublicKey = {
  readonly keyId: string
  readonly fingerprint: string
  readonly verify: (message: Uint8Array, signature: Uint8Array) => boolean
}

// SubjectPublicKeyInfo header of an Ed25519 key: RFC 8410, section 4.
const ED25519_SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex')

/** The node:crypto form of 32 raw Ed25519 bytes. */
export function ed25519PublicKey(raw: Uint8Array): KeyObject {
  return createPublicKey({ key: Buffer.concat([ED25519_SPKI_PREFIX, raw]), format: 'der', type: 'spki' })
}

/** Checks an Ed25519 signature; any malformed key or signature is `false`. Strict: a malleated signature (S+L) fails. */
export function verifyEd25519(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean {
  if (publicKey.length !== 32 || signature.length !== 64) return false
  try {
    return verify(null, message, ed25519PublicKey(publicKey), signature)
  } catch {
    return false // a point that is not on the curve
  }
}

/** The TUF id of a key: SHA-256 of its canonical JSON. */
export function keyIdOf(key: JsonObject): string {
  return createHash('sha256').update(canonicalJson(key)).digest('hex')
}

/** An Ed25519 key as TUF metadata writes it. */
export function ed25519KeyJson(publicKeyHex: string): JsonObject {
  return { keytype: 'ed25519', scheme: 'ed25519', keyval: { public: publicKeyHex } }
}

/**
 * Parses one entry of a `keys` map. A key of a type that the policy does not know yields `undefined`:
 * it can never count towards a threshold, but does not make the metadata unreadable.
 * @throws FlotillaError FORMAT when the entry has the wrong shape
 */
export function parsePublicKey(keyId: string, value: unknown, policy: KeyPolicy, path: string): PublicKey | undefined {
  const key = shape.object(value, path)
  const type = shape.string(key['keytype'], `${path}.keytype`, 64)
  const scheme = shape.string(key['scheme'], `${path}.scheme`, 64)
  const text = shape.string(shape.object(key['keyval'], `${path}.keyval`)['public'], `${path}.keyval.public`, 8192)
  if (policy === 'ed25519-only' && keyId !== keyIdOf(key)) {
    throw new FlotillaError('FORMAT', `${path}: the id is not the SHA-256 of the key`)
  }
  if (type === 'ed25519' && scheme === 'ed25519') {
    const raw = Buffer.from(text, 'hex')
    if (raw.length !== 32) throw new FlotillaError('FORMAT', `${path}.keyval.public: wanted 32 bytes in hexadecimal`)
    return {
      keyId,
      fingerprint: raw.toString('hex'),
      verify: (message, signature) => verifyEd25519(raw, message, signature),
    }
  }
  return policy === 'all-key-types' ? parsePemKey(keyId, type, scheme, text) : undefined
}

function parsePemKey(keyId: string, type: string, scheme: string, pem: string): PublicKey | undefined {
  const options = pemSchemes[scheme]
  if (options === undefined || !['rsa', 'ecdsa', 'ecdsa-sha2-nistp256', 'ecdsa-sha2-nistp384'].includes(type)) {
    return undefined
  }
  try {
    const key = createPublicKey(pem)
    const fingerprint = key.export({ format: 'der', type: 'spki' }).toString('hex')
    return {
      keyId,
      fingerprint,
      verify: (message, signature) => {
        try {
          return verify(options.hash, message, { key, ...options.padding }, signature)
        } catch {
          return false
        }
      },
    }
  } catch {
    return undefined
  }
}

// crypto.constants: RSA_PKCS1_PSS_PADDING = 6, RSA_PKCS1_PADDING = 1, RSA_PSS_SALTLEN_AUTO = -2.
const pemSchemes: { readonly [scheme: string]: { hash: string; padding: { padding?: number; saltLength?: number } } } =
  {
    'rsassa-pss-sha256': { hash: 'sha256', padding: { padding: 6, saltLength: -2 } },
    'rsa-pkcs1v15-sha256': { hash: 'sha256', padding: { padding: 1 } },
    'ecdsa-sha2-nistp256': { hash: 'sha256', padding: {} },
    'ecdsa-sha2-nistp384': { hash: 'sha384', padding: {} },
  }
