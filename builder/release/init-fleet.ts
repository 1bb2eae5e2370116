import { encodeFleetPolicy, type FleetPolicy } from '../../protocol/membership/fleet-policy.ts'
import { policyPath } from '../../protocol/release/find-release.ts'
import {
  composeRole,
  composeRoot,
  signedFile,
  composeTargets,
  type Delegation,
  type MetadataJson,
} from './compose-metadata.ts'
import { type FleetKeys, thresholdOf } from './fleet-keys.ts'
import type { KeyInfo } from './key-file.ts'
import type { Repository } from './repository.ts'

const publics = (keys: readonly KeyInfo[]) => keys.map((key) => key.publicHex)

/** The first metadata of a fleet, unsigned: root, targets (delegating to the fleet's policy), the policy role. */
export function composeFleet(
  repository: Repository,
  keys: FleetKeys,
  nowMs: number,
): ReadonlyMap<string, MetadataJson> {
  const policy: FleetPolicy = {
    schema: 1,
    fleet: repository.fleet,
    caKeys: publics(keys.ca),
    minEpoch: 1,
    revoked: [],
    recoveryKey: keys.recovery[0]?.publicHex,
    claims: [],
  }
  const bytes = encodeFleetPolicy(policy)
  repository.writeBlob(bytes)
  return new Map([
    ['root', composeRoot(1, nowMs, rootRoles(keys))],
    ['targets', composeTargets(1, nowMs, 1, [fleetDelegation(repository.fleet, keys)])],
    [
      `fleet.${repository.fleet}`,
      composeRole(`fleet.${repository.fleet}`, 1, nowMs, new Map([[policyPath(repository.fleet), signedFile(bytes)]])),
    ],
  ])
}

/** The roles of root metadata for a set of keys. */
export function rootRoles(keys: FleetKeys) {
  const role = (name: string, members: readonly KeyInfo[]) => ({
    keys: publics(members),
    threshold: thresholdOf(name, members.length),
  })
  return {
    root: role('root', keys.root),
    targets: role('targets', keys.manager),
    snapshot: role('snapshot', keys.publisher),
    timestamp: role('timestamp', keys.publisher),
  }
}

/** Who signs the fleet's policy. */
export function fleetDelegation(fleet: string, keys: FleetKeys): Delegation {
  return { name: `fleet.${fleet}`, keys: publics(keys.fleet), threshold: 1, paths: [`fleet/${fleet}/*`] }
}

/** Who signs releases of a board and channel: `stable` needs two of CI and the managers, others one. */
export function releaseDelegation(board: string, channel: string, keys: Pick<FleetKeys, 'ci' | 'manager'>): Delegation {
  const members = [...publics(keys.ci), ...publics(keys.manager).slice(0, 2)]
  const name = `${board}.${channel}`
  return { name, keys: members, threshold: thresholdOf(name, members.length), paths: [`${board}/${channel}/*`] }
}

/** The next version of the role that names the fleet's policy; the policy itself becomes a blob. Unsigned. */
export function composePolicy(
  repository: Repository,
  policy: FleetPolicy,
  nowMs: number,
): ReadonlyMap<string, MetadataJson> {
  const bytes = encodeFleetPolicy(policy)
  repository.writeBlob(bytes)
  const name = `fleet.${repository.fleet}`
  const version = (repository.currentRole(name)?.signed.version ?? 0) + 1
  return new Map([
    [name, composeRole(name, version, nowMs, new Map([[policyPath(repository.fleet), signedFile(bytes)]]))],
  ])
}
