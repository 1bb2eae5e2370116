import { constants } from 'node:fs'
import { open } from 'node:fs/promises'

/** A wish not to be rebooted now. */
export type Hold = { readonly reason: string; readonly untilMs: number }

/** Why a reboot has to wait, or undefined when it may happen. */
export type GateVerdict = { readonly open: true } | { readonly open: false; readonly reason: string }

/** A daily window in local time, minutes since midnight; `from > to` spans midnight. */
export type MaintenanceWindow = { readonly fromMinute: number; readonly toMinute: number }

/** Longest hold: a robot that died while holding must not keep the fleet back for ever. */
export const MAX_HOLD_SECONDS = 7 * 86_400

/**
 * Whether the robot and the calendar allow a reboot. Pure.
 * Windows need a clock: while the clock is behind the signed time floor (a board that woke up in 1970) they are
 * ignored, since otherwise the device might never update.
 */
export function judgeGate(
  holds: readonly Hold[],
  nowMs: number,
  windows: readonly MaintenanceWindow[],
  wallClock: Date,
  floorMs: number,
): GateVerdict {
  const hold = holds.find((entry) => entry.untilMs > nowMs)
  if (hold !== undefined) return { open: false, reason: hold.reason }
  if (windows.length === 0 || wallClock.getTime() < floorMs) return { open: true }
  const inside = windows.some((window) => isInside(window, wallClock))
  return inside ? { open: true } : { open: false, reason: 'outside the maintenance windows' }
}

/** Whether a local time lies in a daily window. */
export function isInside({ fromMinute, toMinute }: MaintenanceWindow, wallClock: Date): boolean {
  const minute = wallClock.getHours() * 60 + wallClock.getMinutes()
  if (fromMinute <= toMinute) return minute >= fromMinute && minute < toMinute
  return minute >= fromMinute || minute < toMinute
}

/** Parses `22:00-06:00`; undefined when it is not a window. */
export function parseWindow(text: string): MaintenanceWindow | undefined {
  const match = /^([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)$/.exec(text)
  if (match === null) return undefined
  const [fromHour = 0, fromMinute = 0, toHour = 0, toMinute = 0] = match.slice(1).map(Number)
  return { fromMinute: fromHour * 60 + fromMinute, toMinute: toHour * 60 + toMinute }
}

const MAX_HOLD_BYTES = 1_000
/** A container's hold that names no end. */
const STRANGERS_HOLD_SECONDS = 3_600

/**
 * Reads the hold file: while it exists the device is not rebooted. Its first line is the reason; a second line
 * `seconds: N` makes it expire N seconds after the file was written.
 * @param byStranger - a container wrote it: a link out of it, a pipe that blocks, or a device is no hold
 */
export async function readHoldFile(
  path: string,
  wallMs: number,
  nowMs: number,
  byStranger = false,
): Promise<Hold | undefined> {
  const { O_RDONLY, O_NONBLOCK, O_NOFOLLOW } = constants
  const file = await open(path, O_RDONLY | O_NONBLOCK | (byStranger ? O_NOFOLLOW : 0)).catch(() => undefined)
  if (file === undefined) return undefined // no file, no hold
  try {
    const info = await file.stat()
    if (!info.isFile()) return undefined
    const { buffer, bytesRead } = await file.read(Buffer.alloc(MAX_HOLD_BYTES), 0, MAX_HOLD_BYTES, 0)
    const [reason = '', second = ''] = buffer.toString('utf8', 0, bytesRead).split('\n')
    const wished = Number(/^seconds:\s*(\d{1,9})$/.exec(second.trim())?.[1] ?? Number.NaN)
    // What a container that crashed left behind, or one that means no good, ends by itself.
    const seconds = byStranger ? Math.min(wished || STRANGERS_HOLD_SECONDS, MAX_HOLD_SECONDS) : wished
    const writtenMs = byStranger ? Math.min(info.mtimeMs, wallMs) : info.mtimeMs
    const left = Number.isNaN(seconds) ? Infinity : writtenMs + seconds * 1_000 - wallMs
    return { reason: reason.trim().slice(0, 200) || 'held by file', untilMs: nowMs + left }
  } catch {
    return undefined // it went away meanwhile
  } finally {
    await file.close()
  }
}
