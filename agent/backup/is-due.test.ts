import { describe, expect, it } from 'vitest'
import type { BackupSchedule } from '../../protocol/core/backup-spec.ts'
import { isDue } from './is-due.ts'

const HOUR_MS = 3_600_000
const NOON = new Date(2026, 10, 20, 12, 0)
const due = (schedule: BackupSchedule, lastMs: number | undefined, more: Partial<Parameters<typeof isDue>[0]> = {}) =>
  isDue({ schedule, lastMs, sinceAttemptMs: undefined, wall: NOON, floorMs: 0, ...more })
const at = (hour: number, day = 20) => new Date(2026, 10, day, hour, 0).getTime()

describe('a backup is due', () => {
  it('when so much time passed, or that minute of the day did, or there is none yet', () => {
    const sixHours = { everySeconds: 6 * 3_600 }
    expect(due(sixHours, undefined)).toBe(true)
    expect(due(sixHours, at(7))).toBe(false)
    expect(due(sixHours, at(6))).toBe(true)
    const atThree = { atMinute: 180 }
    expect(due(atThree, at(4))).toBe(false)
    expect(due(atThree, at(2))).toBe(true)
    // Not yet today: yesterday's counts.
    const atFour = { atMinute: 16 * 60 }
    expect(due(atFour, at(17, 19))).toBe(false)
    expect(due(atFour, at(15, 19))).toBe(true)
  })

  it('not again at once when the last attempt failed', () => {
    expect(due({ everySeconds: 3_600 }, undefined, { sinceAttemptMs: 60_000 })).toBe(false)
    expect(due({ everySeconds: 3_600 }, undefined, { sinceAttemptMs: 301_000 })).toBe(true)
  })

  it('by the time that the device is up when its clock went back or stands in 1970', () => {
    const every = { everySeconds: 3_600 }
    const future = at(12) + 1_000 * HOUR_MS
    expect(due(every, future)).toBe(true)
    expect(due(every, future, { sinceAttemptMs: HOUR_MS - 1 })).toBe(false)
    expect(due(every, future, { sinceAttemptMs: HOUR_MS })).toBe(true)
    expect(due(every, at(6), { wall: new Date(0), floorMs: at(1), sinceAttemptMs: HOUR_MS / 2 })).toBe(false)
  })
})
