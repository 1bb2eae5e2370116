import { FlotillaError } from '../errors.ts'
import type { RoleKind } from './metadata.ts'
import type { TrustedSet } from './trusted-set.ts'

/**
 * How expiry is judged.
 * `floor`: against signed times only, and only `targets` roles are refused; the rest is a label (a robot may have no clock).
 * `clock`: against a given time, every role is refused when expired, as the TUF specification has it.
 * `never`: for re-reading what was accepted earlier; whoever uses it judges expiry then.
 */
export type ExpiryPolicy =
  | { readonly mode: 'floor' }
  | { readonly mode: 'never' }
  | { readonly mode: 'clock'; readonly nowMs: number }

/**
 * The latest time that is proven by something signed that is still trusted, milliseconds since 1970.
 * It only rises, except when a root takes back the key that had set it: the file is dropped then, and its time with it.
 */
export function timeFloorMs(set: TrustedSet): number {
  let floor = set.builtMs
  const files = [set.root, set.timestamp, set.snapshot, ...set.roles.values()]
  for (const file of files) floor = Math.max(floor, file?.data.issuedMs ?? 0)
  return floor
}

/** @throws FlotillaError EXPIRED when the policy refuses the role at this time */
export function judgeExpiry(kind: RoleKind, expiresMs: number, floorMs: number, policy: ExpiryPolicy): void {
  if (policy.mode === 'never') return
  const nowMs = policy.mode === 'clock' ? policy.nowMs : floorMs
  const refuses = policy.mode === 'clock' || kind === 'targets'
  if (refuses && expiresMs <= nowMs) {
    throw new FlotillaError(
      'EXPIRED',
      `${kind}: expired ${new Date(expiresMs).toISOString()}; have the operator sign it again`,
    )
  }
}

/** How fresh what this device knows can be said to be; for status, never for a decision. */
export function freshness(
  set: TrustedSet,
  wallClockMs: number,
): { readonly stale: boolean; readonly staleDays: number } {
  const expires = set.timestamp?.data.expiresMs ?? 0
  const now = Math.max(timeFloorMs(set), wallClockMs)
  return { stale: now > expires, staleDays: Math.max(0, Math.floor((now - expires) / 86_400_000)) }
}
