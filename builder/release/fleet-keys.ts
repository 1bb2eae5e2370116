import { randomBytes } from 'node:crypto'
import { FlotillaError } from '../../protocol/errors.ts'
import { createKeyFile, type KeyInfo, type KeyPurpose } from './key-file.ts'

/** The keys of a fleet by purpose: who may sign what (facts/trust.md 4.1). */
export type FleetKeys = { readonly [P in KeyPurpose]: readonly KeyInfo[] }

/** How many keys a development fleet makes for itself, and how many must sign. */
const DEV_COUNTS: { readonly [P in KeyPurpose]: number } = {
  root: 3,
  manager: 3,
  ci: 1,
  publisher: 2,
  fleet: 2,
  ca: 1,
  recovery: 1,
}

/** Makes all keys in one directory: the short cut for one person. The structure is that of a real fleet. */
export function createDevKeys(directory: string, passphrase: string): FleetKeys {
  const salt = randomBytes(16)
  const make = (purpose: KeyPurpose) =>
    Array.from({ length: DEV_COUNTS[purpose] }, (_, at) =>
      createKeyFile(directory, `${purpose}-${at + 1}`, purpose, passphrase, salt),
    )
  return {
    root: make('root'),
    manager: make('manager'),
    ci: make('ci'),
    publisher: make('publisher'),
    fleet: make('fleet'),
    ca: make('ca'),
    recovery: make('recovery'),
  }
}

/** Sorts keys by purpose and checks that there are enough of each. @throws FlotillaError BAD_INPUT */
export function groupKeys(keys: readonly KeyInfo[]): FleetKeys {
  const of = (purpose: KeyPurpose) => keys.filter((key) => key.purpose === purpose)
  const fleet = {
    root: of('root'),
    manager: of('manager'),
    ci: of('ci'),
    publisher: of('publisher'),
    fleet: of('fleet'),
    ca: of('ca'),
    recovery: of('recovery'),
  }
  for (const [purpose, least] of [
    ['root', 2],
    ['manager', 2],
    ['ci', 1],
    ['publisher', 1],
    ['fleet', 1],
    ['ca', 1],
    // No recovery key: then the backups of a device can be opened by it alone.
  ] as const) {
    if (fleet[purpose].length < least) {
      throw new FlotillaError(
        'BAD_INPUT',
        `start a fleet: ${fleet[purpose].length} ${purpose} keys, at least ${least} are needed; make them with \`flotilla keys init --purpose ${purpose}\` and put the key files (or their public halves) together`,
      )
    }
  }
  const publics = keys.map((key) => key.publicHex)
  if (new Set(publics).size !== publics.length)
    throw new FlotillaError('BAD_INPUT', 'start a fleet: one key is there under two names')
  return fleet
}

/** Threshold of a role: 2 where a stolen key could reach devices, 1 where it cannot. */
export function thresholdOf(role: string, keyCount: number): number {
  return role === 'root' || role === 'targets' || role.endsWith('.stable') ? Math.min(2, keyCount) : 1
}
