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
    ['NOTE', (row) => row.reason],
  ])
}
