import { FlotillaError } from '../../protocol/errors.ts'
import {
  composeRole,
  signedFilesOf,
  composeRoot,
  composeTargets,
  type MetadataJson,
  type RoleSpec,
} from './compose-metadata.ts'
import { currentDelegations } from './create-release.ts'
import { composePolicy } from './init-fleet.ts'
import type { KeyInfo } from './key-file.ts'
import type { Repository } from './repository.ts'

/**
 * The metadata in which `fresh` stands wherever `old` stood: root for root, manager and publisher keys, targets for
 * manager, CI and fleet keys, the policy for CA keys. Unsigned.
 * @throws FlotillaError NOT_FOUND when no published metadata names the key
 */
export function replaceKey(
  repository: Repository,
  old: KeyInfo,
  fresh: KeyInfo,
  nowMs: number,
): ReadonlyMap<string, MetadataJson> {
  const swap = (hex: string) => (hex === old.publicHex ? fresh.publicHex : hex)
  const roles = new Map<string, MetadataJson>()
  const rootRoles = currentRootRoles(repository)
  if (Object.values(rootRoles).some((role) => role.keys.includes(old.publicHex))) {
    const version = repository.roots().length + 1
    const spec = (role: RoleSpec): RoleSpec => ({ keys: role.keys.map(swap), threshold: role.threshold })
    roles.set(
      'root',
      composeRoot(version, nowMs, {
        root: spec(rootRoles.root),
        targets: spec(rootRoles.targets),
        snapshot: spec(rootRoles.snapshot),
        timestamp: spec(rootRoles.timestamp),
      }),
    )
  }
  const delegations = currentDelegations(repository)
  const touched = delegations.filter((delegation) => delegation.keys.includes(old.publicHex))
  if (touched.length > 0 || rootRoles.targets.keys.includes(old.publicHex)) {
    const targets = repository.currentRole('targets')
    roles.set(
      'targets',
      composeTargets(
        (targets?.signed.version ?? 0) + 1,
        nowMs,
        (targets?.signed['x-era'] as number | undefined) ?? 1,
        delegations.map((delegation) => ({ ...delegation, keys: delegation.keys.map(swap) })),
      ),
    )
    // What the old key had signed must be signed again by those who are left.
    for (const { name } of touched) roles.set(name, composeAgain(repository, name, nowMs))
  }
  const policy = repository.policy()
  if (policy.caKeys.includes(old.publicHex)) {
    const swapped = composePolicy(repository, { ...policy, caKeys: policy.caKeys.map(swap) }, nowMs)
    for (const [name, json] of swapped) roles.set(name, json)
  }
  if (roles.size === 0) throw new FlotillaError('NOT_FOUND', `rotate key ${old.name}: no published metadata names it`)
  return roles
}

function composeAgain(repository: Repository, name: string, nowMs: number): MetadataJson {
  const current = repository.currentRole(name)
  // With what was ordered about them: a halt must outlive the key that signed it.
  return composeRole(name, (current?.signed.version ?? 0) + 1, nowMs, signedFilesOf(current))
}

/** The roles of the published root with public keys instead of ids. */
function currentRootRoles(
  repository: Repository,
): Readonly<Record<'root' | 'targets' | 'snapshot' | 'timestamp', RoleSpec>> {
  const signed = repository.currentRole('root')?.signed
  const keys = (signed?.['keys'] ?? {}) as Record<string, { keyval: { public: string } }>
  const roles = (signed?.['roles'] ?? {}) as Record<string, { keyids: string[]; threshold: number }>
  const spec = (name: string): RoleSpec => ({
    keys: (roles[name]?.keyids ?? []).map((id) => keys[id]?.keyval.public ?? ''),
    threshold: roles[name]?.threshold ?? 1,
  })
  return { root: spec('root'), targets: spec('targets'), snapshot: spec('snapshot'), timestamp: spec('timestamp') }
}
