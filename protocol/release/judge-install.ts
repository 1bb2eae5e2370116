import type { ReleaseDescription } from './description.ts'

/** A point in the signed order of releases; compared era first. */
export type Sequence = { readonly era: number; readonly seq: number }

/** Negative when `a` comes before `b`, 0 when equal. */
export function compareSequence(a: Sequence, b: Sequence): number {
  return a.era - b.era || a.seq - b.seq
}

/** What a device is and has, as far as a release is judged by it. */
export type DeviceFacts = {
  readonly board: string
  readonly channel: string
  readonly hardware: string
  /** Releases at or below it were replaced for good. */
  readonly floor: Sequence
  readonly running: Sequence
  readonly runningId: string
  /** Releases that failed here or were halted, by id. */
  readonly bad: readonly string[]
  /** The newest data format that a proven release of this device has written. */
  readonly dataVersion: number
}

export type InstallVerdict =
  | { readonly install: true }
  | {
      readonly install: false
      readonly reason:
        | 'OTHER_BOARD'
        | 'OTHER_CHANNEL'
        | 'OTHER_HARDWARE'
        | 'RUNNING'
        | 'SAME_SEQUENCE'
        | 'ROLLBACK'
        | 'FAILED_BEFORE'
        | 'NEEDS_STONE'
        | 'DATA_TOO_NEW'
    }

/**
 * Whether a release is for this device and newer than what it runs. Pure.
 * A refusal says nothing against the release: the bytes may still be carried for others.
 * @see protocol/spec/release.md, "Who installs what"
 */
export function judgeInstall(id: string, release: ReleaseDescription, device: DeviceFacts): InstallVerdict {
  const refuse = (reason: Exclude<InstallVerdict, { install: true }>['reason']) => ({ install: false, reason }) as const
  if (release.board !== device.board) return refuse('OTHER_BOARD')
  if (release.channel !== device.channel) return refuse('OTHER_CHANNEL')
  if (!release.hardware.includes(device.hardware)) return refuse('OTHER_HARDWARE')
  if (id === device.runningId) return refuse('RUNNING')
  if (device.bad.includes(id)) return refuse('FAILED_BEFORE')
  // Signed twice under one number, say from two copies of a repository: nobody can tell which is newer.
  if (compareSequence(release, device.running) === 0) return refuse('SAME_SEQUENCE')
  if (compareSequence(release, device.running) < 0 || compareSequence(release, device.floor) < 0) {
    return refuse('ROLLBACK')
  }
  if (compareSequence(device.running, release.from) < 0) return refuse('NEEDS_STONE')
  if (!readsData(release, device.dataVersion)) return refuse('DATA_TOO_NEW')
  return { install: true }
}

/** Whether the containers of a release can read data that was written in this format. */
export function readsData(release: ReleaseDescription, dataVersion: number): boolean {
  return dataVersion >= release.data.reads && dataVersion <= release.data.writes
}

/** The floor after `proven` was confirmed: never lower than before. */
export function raiseFloor(floor: Sequence, proven: ReleaseDescription): Sequence {
  const minimum = { era: proven.era, seq: proven.minSeq }
  return compareSequence(minimum, floor) > 0 ? minimum : floor
}
