import type { FleetPolicy } from './fleet-policy.ts'

/** The policy of a fleet that nobody may join yet: what tests start from. */
export const BLANK_POLICY: FleetPolicy = {
  schema: 1,
  fleet: 'demo',
  caKeys: [],
  minEpoch: 1,
  revoked: [],
  recoveryKey: undefined,
  claims: [],
}
