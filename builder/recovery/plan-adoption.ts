import { type BackupHead, headOrNone, newestOf } from '../../protocol/backup/backup-head.ts'
import { MAX_CLAIMS } from '../../protocol/backup/repository-claim.ts'
import { REPOSITORY_PATTERN } from '../../protocol/backup/repository-name.ts'
import { seal, unseal } from '../../protocol/backup/seal.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import type { DeviceRecord } from '../../protocol/gossip/device-record.ts'
import type { FleetPolicy } from '../../protocol/membership/fleet-policy.ts'

/**
 * The repository that a person means by a device's name, its id, or the repository itself. Pure.
 * @param records - what was heard of the fleet
 * @throws FlotillaError NOT_FOUND with those that there are
 */
export function findRepository(records: readonly DeviceRecord[], old: string): string {
  if (REPOSITORY_PATTERN.test(old)) return old
  const device = records.find(({ device: id, name }) => id === old || name === old)
  if (device?.backup !== undefined) return device.backup.repository
  const id = device?.device ?? old
  const held = records
    .flatMap(({ holder }) => holder?.replicas ?? [])
    .filter(({ repository }) => repository.startsWith(`${id}.`))
  const newest = newestOf(held, (replica) => replica)
  if (newest !== undefined) return newest.repository
  const there = records.flatMap(({ backup, name }) => (backup === undefined ? [] : [`${name} (${backup.repository})`]))
  throw new FlotillaError(
    'NOT_FOUND',
    `adopt ${old}: no device of that name or id has backups that were heard of; there are ${[...new Set(there)].join(', ') || 'none'}. A repository's own name may be given too (flotilla backup status on a holder)`,
  )
}

/** A head, and the device that may speak for its repository. */
export type OwnedHead = { readonly head: BackupHead; readonly device: string }

/**
 * The newest head of a repository among records, told by the device whose it is. Anybody can tell of any repository, with a
 * password of his own sealed to the recovery key, which is public: only its owner's word counts. Pure.
 */
export function ownedHead(
  records: readonly DeviceRecord[],
  repository: string,
  policy: Pick<FleetPolicy, 'claims'>,
): OwnedHead | undefined {
  const owned = records.flatMap((record): readonly OwnedHead[] => {
    if (record.backup?.repository !== repository) return []
    const head = headOrNone(record, policy)
    return head === undefined ? [] : [{ head, device: record.device }]
  })
  return newestOf(owned, ({ head }) => head)
}

/**
 * The policy in which a repository belongs to another device: its password is opened with the recovery key and sealed to that
 * device. Pure but for randomness.
 * @param secret - of the recovery key, 32 bytes
 * @throws FlotillaError NOT_FOUND, VERIFY_FAILED, LIMIT, BAD_INPUT
 */
export function planAdoption(
  policy: FleetPolicy,
  { head, device }: OwnedHead,
  to: DeviceRecord,
  secret: Uint8Array,
): FleetPolicy {
  const { repository } = head
  if (head.sealed === '')
    throw new FlotillaError(
      'NOT_FOUND',
      `adopt ${repository}: its password was never sealed to a recovery key; the fleet had none when its last backup was made`,
    )
  if (to.holder === undefined)
    throw new FlotillaError(
      'BAD_INPUT',
      `adopt ${repository}: ${to.name} cannot take it over; its agent has no backups`,
    )
  const sealed = seal(unseal(head.sealed, secret), to.holder.sealKey)
  const claim = { repository, to: to.device, epoch: head.epoch + 1, from: device, fromEpoch: head.epoch, sealed }
  const others = policy.claims.filter((one) => one.repository !== repository)
  if (others.length >= MAX_CLAIMS)
    throw new FlotillaError(
      'LIMIT',
      `adopt ${repository}: the policy names ${MAX_CLAIMS} others already, which is as many as fit`,
    )
  return { ...policy, claims: [...others, claim] }
}
