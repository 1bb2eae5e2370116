import type { YamlReader, YamlValue } from './yaml-reader.ts'

/** `backup:` of a container: what of it is saved, when, how it is kept still meanwhile, and how long backups are kept. */
export type BackupSpec = {
  /** Undefined backs up only by hand and before an upgrade. */
  readonly schedule: BackupSchedule | undefined
  /** The container's own file system: what it changed of its image. */
  readonly fileSystem: boolean
  /** Volumes and bind mounts, by the path in the container or the volume's name; undefined for all that can be written. */
  readonly mounts: readonly string[] | undefined
  /** Patterns of `restic`, as paths in the container (`/var/cache`) or of names anywhere (`*.log`). */
  readonly exclude: readonly string[]
  /** What is done with the container while it is read. */
  readonly consistency: 'none' | 'pause' | 'stop'
  /** Commands in the container, before and after it is read. */
  readonly before: readonly string[] | undefined
  readonly after: readonly string[] | undefined
  /** Whether an upgrade of the device makes a backup first. */
  readonly beforeUpgrade: boolean
  readonly keep: KeepPolicy
  /** Copies on other devices. */
  readonly copies: number
  /** To each holder, bytes per second; undefined for as fast as the device's own limits let it. */
  readonly bytesPerSecond: number | undefined
}

export type BackupSchedule =
  | { readonly everySeconds: number }
  /** Minute of the day, local time. */
  | { readonly atMinute: number }

/** How many backups are kept: the newest, and the last of as many hours, days, weeks, months. */
export type KeepPolicy = { readonly [key in (typeof KEEP_KEYS)[number]]: number }

export const KEEP_KEYS = ['last', 'hourly', 'daily', 'weekly', 'monthly'] as const
/** facts/distribution.md 4.6. */
const KEEP: KeepPolicy = { last: 3, hourly: 24, daily: 7, weekly: 5, monthly: 12 }
const DEFAULT_COPIES = 3
const MAX_COPIES = 8
const KEYS = [
  'schedule',
  'fileSystem',
  'mounts',
  'exclude',
  'consistency',
  'before',
  'after',
  'beforeUpgrade',
  'keep',
  'copies',
  'bandwidthKiB',
] as const
const UNITS = { m: 60, h: 3_600, d: 86_400 } as const
const WORDS = { hourly: 3_600, daily: 86_400, weekly: 604_800 } as const
const LEAST_SECONDS = 60

/** @throws FlotillaError BAD_CONFIG with the place of what is wrong */
export function toBackup(reader: YamlReader, value: NonNullable<YamlValue>): BackupSpec {
  const key = reader.keys(value, KEYS)
  const flag = (name: 'fileSystem' | 'beforeUpgrade') => (key(name) === undefined ? true : reader.flag(key(name)))
  const words = (name: 'before' | 'after') => (key(name) === undefined ? undefined : reader.textOrTexts(key(name)))
  const consistency = key('consistency')
  const kib = reader.optionalInteger(key('bandwidthKiB'), 1, 100_000_000)
  return {
    schedule: key('schedule') === undefined ? undefined : toSchedule(reader, key('schedule')),
    fileSystem: flag('fileSystem'),
    mounts: key('mounts') === undefined ? undefined : reader.texts(key('mounts')),
    exclude: reader.texts(key('exclude')),
    consistency: consistency === undefined ? 'pause' : reader.oneOf(consistency, ['none', 'pause', 'stop']),
    before: words('before'),
    after: words('after'),
    beforeUpgrade: flag('beforeUpgrade'),
    keep: toKeep(reader, key('keep')),
    copies: reader.optionalInteger(key('copies'), 0, MAX_COPIES) ?? DEFAULT_COPIES,
    bytesPerSecond: kib === undefined ? undefined : kib * 1_024,
  }
}

/** `hourly`, `daily`, `weekly`, `every 6h`, `03:30`. */
function toSchedule(reader: YamlReader, value: YamlValue): BackupSchedule {
  const text = reader.optionalText(value) ?? ''
  if (text in WORDS) return { everySeconds: WORDS[text as keyof typeof WORDS] }
  const [, hour, minute] = /^([01]?\d|2[0-3]):([0-5]\d)$/.exec(text) ?? []
  if (hour !== undefined) return { atMinute: Number(hour) * 60 + Number(minute) }
  const [, count, unit] = /^every ([1-9]\d{0,4}) ?([mhd])$/.exec(text) ?? []
  const seconds = Number(count) * UNITS[unit as keyof typeof UNITS]
  if (seconds >= LEAST_SECONDS) return { everySeconds: seconds }
  return reader.fail(value, `${value?.path}: wanted hourly, daily, weekly, "every 6h" or a time such as "03:30"`)
}

function toKeep(reader: YamlReader, value: YamlValue): KeepPolicy {
  if (value === undefined) return KEEP
  const key = reader.keys(value, KEEP_KEYS)
  const keep = Object.fromEntries(
    KEEP_KEYS.map((name) => [name, reader.optionalInteger(key(name), 0, 10_000) ?? 0]),
  ) as KeepPolicy
  // Or the first prune would leave nothing.
  if (KEEP_KEYS.every((name) => keep[name] === 0)) reader.fail(value, `${value.path}: keeps no backup at all`)
  return keep
}
