import type { BackupSchedule } from '../../protocol/core/backup-spec.ts'

export type DueFacts = {
  readonly schedule: BackupSchedule
  /** By the wall clock; undefined when there is none. */
  readonly lastMs: number | undefined
  /** Since the last attempt of this run of the agent, monotonic; undefined when there was none. */
  readonly sinceAttemptMs: number | undefined
  readonly wall: Date
  /** What signed times say that it is at least. */
  readonly floorMs: number
}

/** A failed backup, or one under a clock that jumps, is not made again and again. */
const LEAST_PAUSE_MS = 300_000
const DAY_MS = 86_400_000
const MINUTE_MS = 60_000

/**
 * Whether a backup is to be made now. Pure. A clock that went back, or stands before what was signed, says nothing: then the time
 * since this run's last attempt counts alone, and one that has made none makes one.
 */
export function isDue({ schedule, lastMs, sinceAttemptMs, wall, floorMs }: DueFacts): boolean {
  const everyMs = 'everySeconds' in schedule ? schedule.everySeconds * 1_000 : DAY_MS
  if (sinceAttemptMs !== undefined && sinceAttemptMs < Math.min(everyMs, LEAST_PAUSE_MS)) return false
  if (lastMs === undefined) return true
  const nowMs = wall.getTime()
  if (nowMs < floorMs || nowMs < lastMs) return sinceAttemptMs === undefined || sinceAttemptMs >= everyMs
  if ('everySeconds' in schedule) return nowMs - lastMs >= everyMs
  return lastMs < lastTimeOf(schedule.atMinute, wall)
}

/** When it was that minute of the day last, local time. */
function lastTimeOf(minute: number, wall: Date): number {
  const today = new Date(wall)
  today.setHours(0, 0, 0, 0)
  const atMs = today.getTime() + minute * MINUTE_MS
  return atMs <= wall.getTime() ? atMs : atMs - DAY_MS
}
