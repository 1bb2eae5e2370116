import { createHash, randomBytes, scryptSync } from 'node:crypto'
import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import nacl from 'tweetnacl'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { parseJson, shape } from '../../protocol/shape.ts'
import { ed25519KeyJson, keyIdOf } from '../../protocol/trust/public-key.ts'

/** What a key is for; custody differs (facts/trust.md 4.1). All sign but `recovery`, to which passwords of backups are sealed. */
export const KEY_PURPOSES = ['root', 'manager', 'ci', 'publisher', 'fleet', 'ca', 'recovery'] as const
export type KeyPurpose = (typeof KEY_PURPOSES)[number]

/** The public half of a signing key, as it stands in clear in its file. */
export type KeyInfo = {
  readonly name: string
  readonly purpose: KeyPurpose
  readonly publicHex: string
  readonly keyId: string
  readonly path: string
}
/** A key that was opened with its passphrase. */
export type SigningKey = KeyInfo & { readonly sign: (message: Uint8Array) => Uint8Array }

// scrypt N=2^15, r=8, p=1: 32 MiB and about a tenth of a second for each guess.
const SCRYPT = { N: 32_768, r: 8, p: 1, maxmem: 64 * 2 ** 20 }

/**
 * Makes a key pair and writes `<directory>/<name>.key`: public half in clear, secret under the passphrase, mode 0600.
 * @param salt - 16 bytes; shared only by keys that are made together under one passphrase, so that they open together
 */
export function createKeyFile(
  directory: string,
  name: string,
  purpose: KeyPurpose,
  passphrase: string,
  salt: Buffer = randomBytes(16),
): KeyInfo {
  const pair = purpose === 'recovery' ? nacl.box.keyPair() : nacl.sign.keyPair()
  const nonce = randomBytes(nacl.secretbox.nonceLength)
  const box = nacl.secretbox(pair.secretKey, nonce, stretch(passphrase, salt))
  const file = {
    type: 'flotilla-key',
    name,
    purpose,
    public: Buffer.from(pair.publicKey).toString('hex'),
    secret: {
      kdf: 'scrypt-32768-8-1',
      salt: salt.toString('hex'),
      nonce: nonce.toString('hex'),
      box: Buffer.from(box).toString('hex'),
    },
  }
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const path = join(directory, `${name}.key`)
  try {
    writeFileSync(path, `${JSON.stringify(file, null, 2)}\n`, { mode: 0o600, flag: 'wx' })
  } catch (cause) {
    throw new FlotillaError('ALREADY_EXISTS', `make key ${path}: ${messageOf(cause)}`, { cause })
  }
  chmodSync(path, 0o600)
  return readKeyInfo(path)
}

/** Reads the public half. @throws FlotillaError BAD_INPUT */
export function readKeyInfo(path: string): KeyInfo {
  const json = readKeyJson(path)
  const publicHex = shape.hex32(json['public'], `${path}: public`)
  return {
    name: shape.string(json['name'], `${path}: name`, 64),
    purpose: shape.oneOf(json['purpose'], `${path}: purpose`, KEY_PURPOSES),
    publicHex,
    keyId: keyIdOf(ed25519KeyJson(publicHex)),
    path,
  }
}

/** Opens a key. @throws FlotillaError WRONG_PASSPHRASE, BAD_INPUT */
export function openKey(path: string, passphrase: string): SigningKey {
  const info = readKeyInfo(path)
  if (info.purpose === 'recovery')
    throw new FlotillaError('BAD_INPUT', `open key ${path}: it is a recovery key, which signs nothing`)
  const secretKey = openSecret(path, passphrase)
  return { ...info, sign: (message) => nacl.sign.detached(message, secretKey) }
}

/** Opens the recovery key. @returns its secret half, 32 bytes @throws FlotillaError WRONG_PASSPHRASE, BAD_INPUT */
export function openRecoveryKey(path: string, passphrase: string): Uint8Array {
  const { purpose } = readKeyInfo(path)
  if (purpose !== 'recovery')
    throw new FlotillaError('BAD_INPUT', `open key ${path}: it is a ${purpose} key; the recovery key is needed`)
  return openSecret(path, passphrase)
}

function openSecret(path: string, passphrase: string): Uint8Array {
  const secret = shape.object(readKeyJson(path)['secret'], `${path}: secret`)
  const hex = (key: string) => Buffer.from(shape.string(secret[key], `${path}: secret.${key}`, 256), 'hex')
  const secretKey = nacl.secretbox.open(hex('box'), hex('nonce'), stretch(passphrase, hex('salt')))
  if (secretKey === null) throw new FlotillaError('WRONG_PASSPHRASE', `open key ${path}: the passphrase is wrong`)
  return secretKey
}

let stretched: { readonly passphrase: string; readonly salt: Buffer; readonly key: Uint8Array } | undefined

/** The key that a passphrase stands for. The last one is remembered: keys with one salt are opened one after another. */
function stretch(passphrase: string, salt: Buffer): Uint8Array {
  if (stretched?.passphrase !== passphrase || !stretched.salt.equals(salt))
    stretched = { passphrase, salt, key: scryptSync(passphrase, salt, 32, SCRYPT) }
  return stretched.key
}

/** All keys of a directory, by name. */
export function listKeys(directory: string): readonly KeyInfo[] {
  let names: string[]
  try {
    names = readdirSync(directory)
  } catch {
    return [] // no keys here: they are kept elsewhere
  }
  return names
    .filter((name) => name.endsWith('.key'))
    .sort()
    .map((name) => readKeyInfo(join(directory, name)))
}

/** A short form of a key's fingerprint that two people can read to each other. */
export function spokenFingerprint(publicHex: string): string {
  return createHash('sha256')
    .update(Buffer.from(publicHex, 'hex'))
    .digest('hex')
    .slice(0, 24)
    .replace(/(.{4})(?=.)/g, '$1-')
}

function readKeyJson(path: string) {
  let bytes: Buffer
  try {
    bytes = readFileSync(path)
  } catch (cause) {
    throw new FlotillaError('NOT_FOUND', `read key ${path}: ${messageOf(cause)}`, { cause })
  }
  const json = shape.object(parseJson(bytes, path, 4_096), path)
  if (json['type'] !== 'flotilla-key') throw new FlotillaError('BAD_INPUT', `${path}: not a Flotilla key file`)
  return json
}
