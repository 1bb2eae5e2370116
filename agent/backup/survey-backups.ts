import { type BackupHead, headOrNone, isNewer, isWholeCopy, MAX_REPLICAS } from '../../protocol/backup/backup-head.ts'
import { type Candidate, placeReplicas, type PlacementGraces } from '../../protocol/backup/place-replicas.ts'
import type { DeviceRecord, SignedRecord } from '../../protocol/gossip/device-record.ts'
import type { HeardRecord } from '../../protocol/gossip/record-book.ts'
import type { FleetPolicy } from '../../protocol/membership/fleet-policy.ts'
import { percentOf, type Replica } from './replica-store.ts'

/** One repository of the fleet, as far as this device has heard, and who should hold it. */
export type SurveyedRepository = {
  readonly head: BackupHead
  /** The record that tells of the head. */
  readonly record: Uint8Array
  readonly owner: { readonly device: string; readonly name: string; readonly isHere: boolean }
  /** Devices that should hold it. */
  readonly holders: readonly string[]
  /** Devices that say that they hold some of it. */
  readonly copies: readonly Copy[]
}

export type Copy = {
  readonly device: string
  readonly name: string
  readonly percent: number
  readonly epoch: number
  readonly seq: number
  readonly daysUnchecked: number
  readonly ageMs: number
}

export type SurveyFacts = {
  readonly self: string
  readonly records: readonly HeardRecord[]
  readonly replicas: readonly Replica[]
  /** Records that tell of repositories this device takes over, from who holds them. */
  readonly told: readonly SignedRecord[]
  readonly policy: Pick<FleetPolicy, 'claims'>
  readonly graces: PlacementGraces
}

/**
 * What the records say of every backup repository: the newest head, who holds it, who should. Pure. Every device that heard the same
 * comes to the same.
 * @returns by repository
 */
export function surveyBackups({
  self,
  records,
  replicas,
  told,
  policy,
  graces,
}: SurveyFacts): ReadonlyMap<string, SurveyedRepository> {
  const heard = records.map(({ signed, ageMs }) => ({ record: signed.record, bytes: signed.bytes, ageMs }))
  const heads = new Map<string, { head: BackupHead; bytes: Uint8Array; device: string; name: string }>()
  const add = (head: BackupHead, bytes: Uint8Array, { device, name }: Pick<DeviceRecord, 'device' | 'name'>) => {
    const known = heads.get(head.repository)
    if (known === undefined || isNewer(head, known.head)) heads.set(head.repository, { head, bytes, device, name })
  }
  // What is held was judged when it was taken; its device may be gone since.
  for (const { head, record, owner } of replicas) add(head, record, owner)
  for (const { record, bytes } of told) if (record.backup !== undefined) add(record.backup, bytes, record)
  for (const { record, bytes } of heard) {
    const head = headOrNone(record, policy)
    if (head !== undefined) add(head, bytes, record)
  }
  return new Map(
    [...heads].map(([repository, { head, bytes, device, name }]) => {
      const owner = heard.find(({ record }) => record.device === device)
      const isHere = owner !== undefined && owner.ageMs <= graces.absentMs
      const copies = heard.flatMap(({ record, ageMs }) => copyOf(repository, record, ageMs))
      const candidates = heard.map(({ record, ageMs }) => candidateOf(repository, head, record, ageMs))
      // A device that still says it is the owner's holds its own.
      const place = {
        repository,
        owner: { device, labels: owner?.record.labels ?? {}, isHere },
        copies: head.copies,
        bytes: head.bytes,
        distrusted: head.distrusted,
        candidates,
        graces,
      }
      return [
        repository,
        {
          head,
          record: bytes,
          owner: { device, name, isHere },
          holders: device === self ? [] : placeReplicas(place),
          copies,
        },
      ]
    }),
  )
}

function copyOf(repository: string, { device, name, holder }: DeviceRecord, ageMs: number): readonly Copy[] {
  const replica = holder?.replicas.find((one) => one.repository === repository)
  return replica === undefined ? [] : [{ ...replica, device, name, ageMs }]
}

function candidateOf(
  repository: string,
  head: BackupHead,
  { device, labels, holder }: DeviceRecord,
  ageMs: number,
): Candidate {
  const replica = holder?.replicas.find((one) => one.repository === repository)
  const isWhole = replica?.percent === 100 && replica.epoch === head.epoch && replica.seq === head.seq
  return {
    device,
    labels,
    offeredBytes: holder?.offeredBytes ?? 0,
    freeBytes: holder?.freeBytes ?? 0,
    mostBytes: holder?.mostBytes ?? 0,
    ageMs,
    percent: replica === undefined ? 0 : isWhole ? 100 : Math.max(1, Math.min(99, replica.percent)),
    isFull: (holder?.replicas.length ?? 0) >= MAX_REPLICAS,
  }
}

/** Copies of the newest head that can be had now. Pure. */
export function wholeCopies({ head, copies }: SurveyedRepository, absentMs: number): readonly Copy[] {
  return copies.filter((copy) => copy.ageMs <= absentMs && isWholeCopy(head, copy.device, copy))
}

/** Held replicas as the record of this device tells of them. Pure. */
export function replicaStates(replicas: readonly Replica[]) {
  return replicas.slice(0, MAX_REPLICAS).map((replica) => {
    const percent = percentOf(replica)
    return {
      repository: replica.repository,
      epoch: replica.head.epoch,
      seq: replica.head.seq,
      // Tens of percent: a record for every file would be a storm.
      percent: percent === 100 ? 100 : Math.floor(percent / 10) * 10,
      daysUnchecked: Math.floor(replica.clocks.uncheckedSeconds / 86_400),
    }
  })
}
