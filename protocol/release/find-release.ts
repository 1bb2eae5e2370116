import { FlotillaError } from '../errors.ts'
import { matchesPattern } from '../trust/delegations.ts'
import type { TargetFile } from '../trust/metadata.ts'
import { judgeExpiry, timeFloorMs } from '../trust/time-floor.ts'
import type { TrustedSet, TrustRules } from '../trust/trusted-set.ts'

/** A signed pointer to a release description or fleet policy: its hash and length. */
export type SignedPointer = {
  readonly role: string
  readonly path: string
  readonly lengthBytes: number
  readonly sha256: string
}

/** The path under which a channel's current release is signed. */
export function releasePath(board: string, channel: string): string {
  return `${board}/${channel}/release`
}

/** The path under which a fleet's policy is signed. */
export function policyPath(fleet: string): string {
  return `fleet/${fleet}/policy`
}

/**
 * The current release of a board and channel, or undefined when none is published.
 * Only the one role `<board>.<channel>` may speak for the path.
 * @throws FlotillaError EXPIRED when the role expired before the time floor, FORMAT without SHA-256
 */
export function findRelease(
  set: TrustedSet,
  board: string,
  channel: string,
  rules: TrustRules,
): SignedPointer | undefined {
  return findTarget(set, `${board}.${channel}`, releasePath(board, channel), rules)
}

/** The current policy of a fleet, or undefined. */
export function findPolicy(set: TrustedSet, fleet: string, rules: TrustRules): SignedPointer | undefined {
  return findTarget(set, `fleet.${fleet}`, policyPath(fleet), { ...rules, expiry: { mode: 'never' } })
}

/** The current releases of all boards and channels: what a courier may carry. Expired roles are left out. */
export function listReleases(
  set: TrustedSet,
  rules: TrustRules,
): readonly (SignedPointer & { board: string; channel: string })[] {
  const found: (SignedPointer & { board: string; channel: string })[] = []
  for (const name of set.roles.keys()) {
    const [board, channel, rest] = name.split('.')
    if (board === undefined || channel === undefined || rest !== undefined || board === 'fleet') continue
    try {
      const pointer = findRelease(set, board, channel, rules)
      if (pointer !== undefined) found.push({ ...pointer, board, channel })
    } catch (error) {
      if (!(error instanceof FlotillaError)) throw error
    }
  }
  return found
}

function findTarget(set: TrustedSet, role: string, path: string, rules: TrustRules): SignedPointer | undefined {
  const file = set.roles.get(role)
  const delegation = set.roles.get('targets')?.data.delegations?.roles.find((entry) => entry.name === role)
  if (file === undefined || delegation === undefined || !('paths' in delegation.matches)) return undefined
  if (!delegation.matches.paths.some((pattern) => matchesPattern(pattern, path))) return undefined
  const target: TargetFile | undefined = file.data.targets.get(path)
  if (target === undefined) return undefined
  judgeExpiry('targets', file.data.expiresMs, timeFloorMs(set), rules.expiry)
  judgeExpiry('targets', set.roles.get('targets')?.data.expiresMs ?? 0, timeFloorMs(set), rules.expiry)
  if (target.sha256 === undefined) throw new FlotillaError('FORMAT', `${role}: ${path} has no sha256`)
  return { role, path, lengthBytes: target.length, sha256: target.sha256 }
}
