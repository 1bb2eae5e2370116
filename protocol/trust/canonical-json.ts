import { FlotillaError } from '../errors.ts'

const encoder = new TextEncoder()

/**
 * OLPC canonical JSON, the form that TUF signatures cover: keys sorted, no white space, only `"` and `\`
 * escaped, whole numbers only.
 * @throws FlotillaError FORMAT for a fraction, a huge number, or anything JSON cannot hold
 * @see The Update Framework Specification, "4.1.4. Canonical JSON"
 */
export function canonicalJson(value: unknown): Uint8Array {
  const parts: string[] = []
  write(value, parts, 0)
  return encoder.encode(parts.join(''))
}

function write(value: unknown, parts: string[], depth: number): void {
  if (depth > 64) throw new FlotillaError('FORMAT', 'canonical JSON: nested deeper than 64 levels')
  if (value === null || typeof value === 'boolean') parts.push(String(value))
  else if (typeof value === 'string') parts.push(quote(value))
  else if (typeof value === 'number') {
    if (!Number.isSafeInteger(value)) {
      throw new FlotillaError('FORMAT', `canonical JSON: ${value} is not a whole number that every language can hold`)
    }
    parts.push(String(value))
  } else if (Array.isArray(value)) {
    parts.push('[')
    value.forEach((item, at) => {
      if (at > 0) parts.push(',')
      write(item, parts, depth + 1)
    })
    parts.push(']')
  } else if (typeof value === 'object') writeObject(value, parts, depth)
  else throw new FlotillaError('FORMAT', `canonical JSON: cannot hold a ${typeof value}`)
}

function writeObject(value: object, parts: string[], depth: number): void {
  const entries = Object.entries(value).filter(([, member]) => member !== undefined)
  entries.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
  parts.push('{')
  entries.forEach(([key, member], at) => {
    if (at > 0) parts.push(',')
    parts.push(quote(key), ':')
    write(member, parts, depth + 1)
  })
  parts.push('}')
}

function quote(text: string): string {
  return `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`
}
