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
  readonly reason: string
  readonly log: string
  readonly ageSeconds: number
}

/** Device records as rows, by name. Pure. */
export function fleetRows(records: readonly HeardRecord[]): readonly FleetRow[] {
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
      reason: record.state === 'fell-back' ? `${record.failed?.version}: ${record.failed?.reason}` : record.holdReason,
      log: record.failed?.log ?? '',
      ageSeconds: Math.round(ageMs / 1_000),
    }))
    .sort((a, b) => (a.name < b.name ? -1 : 1))
}
