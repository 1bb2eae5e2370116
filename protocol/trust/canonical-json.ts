import { FlotillaError } from '../errors.ts'

const encoder = new TextEncoder()

/**
 * OLPC canonical JSON, the form that TUF signatures cover: keys sorted, no white space, only `"` and `\`
 * escaped, whole numbers only.
 * @throws FlotillaError FORMAT for a fraction, a huge number, or anything JSON cannot hold
 * @see The Update Framework Specification, "4.1.4. Canonical JSON"
 */
export function canonicalJson(value: unknown): Uint8Array {
  return encode(value, quote)
}

/**
 * The same order of members as valid JSON: canonical JSON leaves line feeds and other control characters bare, which
 * no JSON parser reads. This is how signed things are stored and sent; signatures cover `canonicalJson`.
 */
export function sortedJson(value: unknown): Uint8Array {
  return encode(value, JSON.stringify)
}

type Quote = (text: string) => string

function encode(value: unknown, quoted: Quote): Uint8Array {
  const parts: string[] = []
  write(value, parts, 0, quoted)
  return encoder.encode(parts.join(''))
}

function write(value: unknown, parts: string[], depth: number, quoted: Quote): void {
  if (depth > 64) throw new FlotillaError('FORMAT', 'canonical JSON: nested deeper than 64 levels')
  if (value === null || typeof value === 'boolean') parts.push(String(value))
  else if (typeof value === 'string') parts.push(quoted(value))
  else if (typeof value === 'number') {
    if (!Number.isSafeInteger(value)) {
      throw new FlotillaError('FORMAT', `canonical JSON: ${value} is not a whole number that every language can hold`)
    }
    parts.push(String(value))
  } else if (Array.isArray(value)) {
    parts.push('[')
    value.forEach((item, at) => {
      if (at > 0) parts.push(',')
      write(item, parts, depth + 1, quoted)
    })
    parts.push(']')
  } else if (typeof value === 'object') writeObject(value, parts, depth, quoted)
  else throw new FlotillaError('FORMAT', `canonical JSON: cannot hold a ${typeof value}`)
}

function writeObject(value: object, parts: string[], depth: number, quoted: Quote): void {
  const entries = Object.entries(value).filter(([, member]) => member !== undefined)
  entries.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
  parts.push('{')
  entries.forEach(([key, member], at) => {
    if (at > 0) parts.push(',')
    parts.push(quoted(key), ':')
    write(member, parts, depth + 1, quoted)
  })
  parts.push('}')
}

function quote(text: string): string {
  return `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`
}
