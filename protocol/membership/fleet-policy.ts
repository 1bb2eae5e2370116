import { NAME_PATTERN, parseJson, shape } from '../shape.ts'
import { parseClaims, type RepositoryClaim } from '../backup/repository-claim.ts'
import { sortedJson } from '../trust/canonical-json.ts'

/** Who may take part in a fleet. Signed as a TUF target, so it cannot be rolled back. */
export type FleetPolicy = {
  readonly schema: 1
  readonly fleet: string
  readonly caKeys: readonly string[]
  readonly minEpoch: number
  readonly revoked: readonly string[]
  /** To which passwords of backup repositories are sealed; its secret half is kept off the devices. Undefined when the fleet has none. */
  readonly recoveryKey: string | undefined
  /** Backup repositories that were given to another device. */
  readonly claims: readonly RepositoryClaim[]
}

/** Largest policy that is read: some 1000 revoked devices. */
export const MAX_POLICY_BYTES = 65_536

/** @throws FlotillaError LENGTH, FORMAT */
export function parseFleetPolicy(bytes: Uint8Array): FleetPolicy {
  const what = 'fleet policy'
  const json = shape.object(parseJson(bytes, what, MAX_POLICY_BYTES), what)
  shape.integer(json['schema'], `${what}: schema`, 1, 1)
  return {
    schema: 1,
    fleet: shape.matching(json['fleet'], `${what}: fleet`, NAME_PATTERN, 'a plain lower-case name'),
    caKeys: shape.array(json['caKeys'], `${what}: caKeys`, 16).map((key) => shape.hex32(key, `${what}: caKeys[]`)),
    minEpoch: shape.integer(json['minEpoch'], `${what}: minEpoch`, 0),
    revoked: shape
      .array(json['revoked'], `${what}: revoked`, 1_000)
      .map((id) => shape.string(id, `${what}: revoked[]`, 128)),
    recoveryKey:
      json['recoveryKey'] === undefined ? undefined : shape.hex32(json['recoveryKey'], `${what}: recoveryKey`),
    claims: parseClaims(json['claims'] ?? [], `${what}: claims`),
  }
}

/** The canonical bytes of a policy. */
export function encodeFleetPolicy(policy: FleetPolicy): Uint8Array {
  const { recoveryKey, claims, ...rest } = policy
  // As before there were backups, where there are none: old fleets' policies keep their hash.
  return sortedJson({
    ...rest,
    ...(recoveryKey === undefined ? {} : { recoveryKey }),
    ...(claims.length === 0 ? {} : { claims }),
  })
}
