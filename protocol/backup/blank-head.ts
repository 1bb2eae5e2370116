import type { BackupHead } from './backup-head.ts'

/** The head of a small repository that its own device tells of: what tests start from. */
export const BLANK_HEAD: Omit<BackupHead, 'repository'> = {
  epoch: 0,
  seq: 3,
  list: 'a'.repeat(64),
  listBytes: 1,
  bytes: 1,
  copies: 2,
  bytesPerSecond: 0,
  hoursOld: 0,
  sealed: '',
  distrusted: [],
}
