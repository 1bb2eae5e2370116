import { isWholeCopy } from '../backup/backup-head.ts'
import { shortId } from '../release/description.ts'
import type { DeviceRecord } from './device-record.ts'
import type { HeardRecord } from './record-book.ts'

/** One device as last heard: a row of `flotilla fleet`. */
export type FleetRow = {
  readonly device: string
  readonly name: string
  readonly board: string
  readonly state: string
  readonly version: string
  readonly releaseId: string
  readonly next: string
  readonly percent: number
  readonly holds: readonly string[]
  /** The release that was halted there last. */
  readonly haltedId: string
  readonly reason: string
  readonly log: string
  readonly ageSeconds: number
  /** Its backups, undefined when it has none. */
  readonly backup: BackupRow | undefined
}

export type BackupRow = {
  readonly repository: string
  /** Of the last backup, as far as its device said. */
  readonly hoursOld: number
  /** Copies of all of the newest backup on other devices, and how many are wanted. */
  readonly copies: number
  readonly wanted: number
  /** Days since the copy was hashed that was hashed longest ago. */
  readonly daysUnchecked: number
}

/** Device records as rows, by name. Pure. */
export function fleetRows(records: readonly HeardRecord[]): readonly FleetRow[] {
  const all = records.map(({ signed }) => signed.record)
  return records
    .map(({ signed: { record }, ageMs }) => ({
      device: record.device,
      name: record.name,
      board: record.board,
      state: record.state,
      version: record.running?.version ?? '',
      releaseId: record.running?.id ?? '',
      next: record.next?.version ?? '',
      percent: record.next?.percent ?? 0,
      holds: record.holds,
      haltedId: record.halted?.id ?? '',
      reason: reasonOf(record),
      log: record.failed?.log ?? '',
      ageSeconds: Math.round(ageMs / 1_000),
      backup: backupRow(record, all),
    }))
    .sort((a, b) => (a.name < b.name ? -1 : 1))
}

function backupRow({ backup }: DeviceRecord, all: readonly DeviceRecord[]): BackupRow | undefined {
  if (backup === undefined) return undefined
  const { repository, hoursOld, copies: wanted } = backup
  const whole = all.flatMap(({ device, holder }) =>
    (holder?.replicas ?? []).filter((one) => one.repository === repository && isWholeCopy(backup, device, one)),
  )
  const daysUnchecked = Math.max(0, ...whole.map((one) => one.daysUnchecked))
  return { repository, hoursOld, copies: whole.length, wanted, daysUnchecked }
}

function reasonOf(record: DeviceRecord): string {
  if (record.state === 'fell-back') return `${record.failed?.version}: ${record.failed?.reason}`
  if (record.holdReason !== '' || record.halted === undefined) return record.holdReason
  return `halted ${shortId(record.halted.id)}: ${record.halted.reason}`
}
