import { createHash } from 'node:crypto'
import type { DelegatedRole, Delegations, RoleKeys } from './metadata.ts'

/** A role that may speak for a path, in the order in which roles are asked. */
export type RoleForPath = { readonly name: string; readonly keys: RoleKeys; readonly terminating: boolean }

/** The delegated roles that cover `path`, in order of priority. Pure. */
export function rolesForPath(delegations: Delegations, path: string): readonly RoleForPath[] {
  if (delegations.succinct !== undefined) {
    const { bitLength, namePrefix, keys } = delegations.succinct
    const digits = Math.max(1, Math.ceil(bitLength / 4))
    const bin = sha256Hex(path).slice(0, 8)
    const number = Math.floor(Number.parseInt(bin, 16) / 2 ** (32 - bitLength))
    return [{ name: `${namePrefix}-${number.toString(16).padStart(digits, '0')}`, keys, terminating: true }]
  }
  return delegations.roles.filter((role) => coversPath(role, path))
}

/** The delegation of a role by name, or undefined. */
export function delegationOf(delegations: Delegations | undefined, name: string): RoleForPath | undefined {
  if (delegations === undefined) return undefined
  const succinct = delegations.succinct
  if (succinct !== undefined && name.startsWith(`${succinct.namePrefix}-`)) {
    return { name, keys: succinct.keys, terminating: true }
  }
  return delegations.roles.find((role) => role.name === name)
}

function coversPath(role: DelegatedRole, path: string): boolean {
  if ('hashPrefixes' in role.matches) {
    const hash = sha256Hex(path)
    return role.matches.hashPrefixes.some((prefix) => hash.startsWith(prefix))
  }
  return role.matches.paths.some((pattern) => matchesPattern(pattern, path))
}

/** Shell pattern per path segment: `*`, `?` and sets like `[ab]`; a `*` never crosses a slash. */
export function matchesPattern(pattern: string, path: string): boolean {
  const patterns = pattern.split('/')
  const segments = path.split('/')
  return patterns.length === segments.length && patterns.every((part, at) => matchesSegment(part, segments[at] ?? ''))
}

// Linear-time matching with one point of return: a regular expression made from a hostile pattern could take for ever.
function matchesSegment(pattern: string, text: string): boolean {
  let p = 0
  let t = 0
  let starP = -1
  let starT = 0
  while (t < text.length) {
    const step = p < pattern.length && pattern[p] !== '*' ? matchOne(pattern, p, text.charAt(t)) : 0
    if (step > 0) {
      p += step
      t += 1
    } else if (pattern[p] === '*') {
      starP = p
      starT = t
      p += 1
    } else if (starP >= 0) {
      p = starP + 1
      starT += 1
      t = starT
    } else return false
  }
  while (pattern[p] === '*') p += 1
  return p === pattern.length
}

/** Length of the pattern element at `p` when it matches `char`, else 0. */
function matchOne(pattern: string, p: number, char: string): number {
  if (pattern[p] === '?') return 1
  const end = pattern[p] === '[' ? pattern.indexOf(']', p + 2) : -1
  if (end < 0) return pattern[p] === char ? 1 : 0
  const inverted = pattern[p + 1] === '!'
  const set = pattern.slice(p + (inverted ? 2 : 1), end)
  let found = false
  for (let at = 0; at < set.length; at += 1) {
    const from = set.charAt(at)
    if (set[at + 1] === '-' && at + 2 < set.length) {
      found ||= char >= from && char <= set.charAt(at + 2)
      at += 2
    } else found ||= char === from
  }
  return found !== inverted ? end - p + 1 : 0
}

function sha256Hex(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
