import { FlotillaError } from './errors.ts'

/** A JSON object whose members are still unknown. */
export type JsonObject = { readonly [key: string]: unknown }

/** Where a value was found, for messages: `targets.json: delegations.roles[2].name`. */
type Path = string

function wrong(path: Path, wanted: string): never {
  throw new FlotillaError('FORMAT', `${path}: wanted ${wanted}`, { details: { path, wanted } })
}

/**
 * Shape checks for values that came from a peer, a disk or a person.
 * Each returns the value in its narrow type or throws FORMAT with the path; none allocates.
 */
export const shape = {
  object(value: unknown, path: Path): JsonObject {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) wrong(path, 'an object')
    return value as JsonObject
  },
  array(value: unknown, path: Path, maxItems: number): readonly unknown[] {
    if (!Array.isArray(value)) wrong(path, 'a list')
    if (value.length > maxItems) wrong(path, `at most ${maxItems} items`)
    return value
  },
  string(value: unknown, path: Path, maxLength: number): string {
    if (typeof value !== 'string') wrong(path, 'a string')
    if (value.length > maxLength) wrong(path, `at most ${maxLength} characters`)
    return value
  },
  matching(value: unknown, path: Path, pattern: RegExp, words: string): string {
    const text = shape.string(value, path, 4096)
    if (!pattern.test(text)) wrong(path, words)
    return text
  },
  hex32(value: unknown, path: Path): string {
    return shape.matching(value, path, /^[0-9a-f]{64}$/, '64 lower-case hexadecimal digits')
  },
  /** Not -0 either: it is written as 0, so the same text would not come back. */
  integer(value: unknown, path: Path, min: number, max = Number.MAX_SAFE_INTEGER): number {
    if (
      typeof value !== 'number' ||
      !Number.isSafeInteger(value) ||
      value < min ||
      value > max ||
      Object.is(value, -0)
    ) {
      wrong(path, `a whole number from ${min} to ${max}`)
    }
    return value
  },
  boolean(value: unknown, path: Path): boolean {
    if (typeof value !== 'boolean') wrong(path, 'true or false')
    return value
  },
  oneOf<const T extends string>(value: unknown, path: Path, choices: readonly T[]): T {
    const found = choices.find((choice) => choice === value)
    if (found === undefined) wrong(path, `one of ${choices.join(', ')}`)
    return found
  },
  /** Refuses members that are not in `known`: for our own configuration, never for signed metadata. */
  onlyKeys(value: JsonObject, path: Path, known: readonly string[]): void {
    for (const key of Object.keys(value)) {
      if (!known.includes(key)) wrong(`${path}.${key}`, `no such key (known: ${known.join(', ')})`)
    }
  },
}

/**
 * Parses JSON bytes from outside. Length first, then syntax.
 * @throws FlotillaError LENGTH when longer than `maxBytes`, FORMAT when not JSON
 */
export function parseJson(bytes: Uint8Array, what: string, maxBytes: number): unknown {
  if (bytes.length > maxBytes) {
    throw new FlotillaError('LENGTH', `${what}: ${bytes.length} bytes, at most ${maxBytes} are read`)
  }
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) as unknown
  } catch (cause) {
    throw new FlotillaError('FORMAT', `${what}: not JSON in UTF-8`, { cause })
  }
}

/** Names of boards, channels, fleets and devices: what may stand in a path and a role name. */
export const NAME_PATTERN = /^[a-z0-9][a-z0-9_-]{0,63}$/
