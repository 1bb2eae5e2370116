import type { FleetRow } from '../gossip/fleet-rows.ts'
import { bar, formatAge, formatRows } from './print.ts'

/** The fleet as a table of text lines, for `flotilla fleet` and the live view of `flotilla seed`. Pure. */
export function fleetTable(rows: readonly FleetRow[]): string {
  return formatRows(rows, [
    ['DEVICE', (row) => row.name],
    ['BOARD', (row) => row.board],
    ['RUNS', (row) => row.version],
    ['STATE', (row) => row.state],
    ['NEXT', (row) => (row.next === '' ? '' : `${row.next} ${bar(row.percent, 10)} ${row.percent} %`)],
    ['HEARD', (row) => `${formatAge(row.ageSeconds)} ago`],
    // Fleets without backups need no column for them.
    ...(rows.some(({ backup }) => backup !== undefined) ? [['BACKUP', backupText] as const] : []),
    ['NOTE', (row) => row.reason],
  ])
}

function backupText({ backup }: FleetRow): string {
  if (backup === undefined) return ''
  const { hoursOld, copies, wanted, daysUnchecked } = backup
  const checked = daysUnchecked === 0 ? '' : `, checked ${daysUnchecked} d ago`
  return `${hoursOld === 0 ? 'now' : `${formatAge(hoursOld * 3_600)} ago`}, ${copies}/${wanted} copies${checked}`
}
