import type { DeviceRecord } from './device-record.ts'

/** What a device that runs no release says of itself: what tests and benches start from. */
export const BLANK_RECORD: Omit<DeviceRecord, 'device' | 'seq'> = {
  name: 'x',
  board: 'pi-4',
  channel: 'stable',
  state: 'proven',
  running: undefined,
  next: undefined,
  holds: [],
  failed: undefined,
  wishes: undefined,
  halted: undefined,
  trust: { root: 1, timestamp: 1 },
  holdReason: '',
  labels: {},
  radio: false,
  backup: undefined,
  holder: undefined,
}
