import { FlotillaError } from '../errors.ts'
import { shape } from '../shape.ts'
import { matchesPattern } from '../trust/delegations.ts'
import type { TargetFile } from '../trust/metadata.ts'
import { judgeExpiry, timeFloorMs } from '../trust/time-floor.ts'
import type { TrustedSet, TrustRules } from '../trust/trusted-set.ts'

/** Most stepping stones that are looked at: a device that is further behind is re-flashed. */
const MAX_STONES = 16

/** A signed pointer to a release description or fleet policy: its hash and length. */
export type SignedPointer = {
  readonly role: string
  readonly path: string
  readonly lengthBytes: number
  readonly sha256: string
}

/** What the signers of a release say about its spreading, after it was made: TUF's `custom`, member `flotilla`. */
export type RolloutOrders = {
  /** The release must not be booted any more; with `recall` devices that run it go back. */
  readonly halted: { readonly reason: string; readonly recall: boolean } | undefined
  /** Waves below this one are open whatever was heard. */
  readonly openWaves: number
}

/** A signed pointer to a release with what was ordered about it. */
export type ReleasePointer = SignedPointer & RolloutOrders

/** The path under which a channel's current release is signed. */
export function releasePath(board: string, channel: string): string {
  return `${board}/${channel}/release`
}

/** The path under which a release is signed that must be booted before a later one: a stepping stone. */
export function stonePath(board: string, channel: string, seq: number): string {
  return `${board}/${channel}/stone-${seq}`
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
): ReleasePointer | undefined {
  return findTarget(set, `${board}.${channel}`, releasePath(board, channel), rules)
}

/**
 * The releases of a board and channel that a device may be told to boot: the current one, then its stepping stones from
 * the newest to the oldest.
 * @throws FlotillaError as findRelease
 */
export function findReleases(
  set: TrustedSet,
  board: string,
  channel: string,
  rules: TrustRules,
): readonly ReleasePointer[] {
  const role = `${board}.${channel}`
  const prefix = stonePath(board, channel, 0).slice(0, -1)
  const stones = [...(set.roles.get(role)?.data.targets.keys() ?? [])]
    .filter((path) => path.startsWith(prefix) && /^\d{1,15}$/.test(path.slice(prefix.length)))
    .sort((a, b) => Number(b.slice(prefix.length)) - Number(a.slice(prefix.length)))
    .slice(0, MAX_STONES)
  return [releasePath(board, channel), ...stones].flatMap((path) => findTarget(set, role, path, rules) ?? [])
}

/** The current policy of a fleet, or undefined. */
export function findPolicy(set: TrustedSet, fleet: string, rules: TrustRules): SignedPointer | undefined {
  return findTarget(set, `fleet.${fleet}`, policyPath(fleet), { ...rules, expiry: { mode: 'never' } })
}

/**
 * The current releases of all boards and channels with their stepping stones: what a courier may carry. Expired roles
 * are left out.
 */
export function listReleases(
  set: TrustedSet,
  rules: TrustRules,
): readonly (ReleasePointer & { board: string; channel: string })[] {
  const found: (ReleasePointer & { board: string; channel: string })[] = []
  for (const name of set.roles.keys()) {
    const [board, channel, rest] = name.split('.')
    if (board === undefined || channel === undefined || rest !== undefined || board === 'fleet') continue
    try {
      for (const pointer of findReleases(set, board, channel, rules)) found.push({ ...pointer, board, channel })
    } catch (error) {
      if (!(error instanceof FlotillaError)) throw error
    }
  }
  return found
}

function findTarget(set: TrustedSet, role: string, path: string, rules: TrustRules): ReleasePointer | undefined {
  const file = set.roles.get(role)
  const delegation = set.roles.get('targets')?.data.delegations?.roles.find((entry) => entry.name === role)
  if (file === undefined || delegation === undefined || !('paths' in delegation.matches)) return undefined
  if (!delegation.matches.paths.some((pattern) => matchesPattern(pattern, path))) return undefined
  const target: TargetFile | undefined = file.data.targets.get(path)
  if (target === undefined) return undefined
  judgeExpiry('targets', file.data.expiresMs, timeFloorMs(set), rules.expiry)
  judgeExpiry('targets', set.roles.get('targets')?.data.expiresMs ?? 0, timeFloorMs(set), rules.expiry)
  if (target.sha256 === undefined) throw new FlotillaError('FORMAT', `${role}: ${path} has no sha256`)
  return {
    role,
    path,
    lengthBytes: target.length,
    sha256: target.sha256,
    ...parseOrders(target.custom?.['flotilla'], `${role}: ${path}: custom.flotilla`),
  }
}

function parseOrders(value: unknown, path: string): RolloutOrders {
  if (value === undefined) return { halted: undefined, openWaves: 0 }
  const json = shape.object(value, path)
  const halted = json['halted'] === undefined ? undefined : shape.object(json['halted'], `${path}.halted`)
  return {
    halted: halted && {
      reason: shape.string(halted['reason'], `${path}.halted.reason`, 200),
      recall: halted['recall'] === true,
    },
    openWaves: json['openWaves'] === undefined ? 0 : shape.integer(json['openWaves'], `${path}.openWaves`, 0, 100),
  }
}
