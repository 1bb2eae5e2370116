import { FlotillaError } from '../../protocol/errors.ts'

/** One backup of one container. */
export type ContainerBackup = { readonly id: string; readonly container: string; readonly time: string }

/**
 * The backup that a person means. Pure.
 * @param backups - oldest first
 * @param wanted - the beginning of an id; a time, for the last one made until then; undefined for the newest
 * @throws FlotillaError NOT_FOUND, with those that there are
 */
export function chooseBackup(
  backups: readonly ContainerBackup[],
  wanted: string | undefined,
  container = '',
): ContainerBackup {
  const what = container === '' ? 'backups' : `backups of ${container}`
  const newest = backups.at(-1)
  if (newest === undefined) throw new FlotillaError('NOT_FOUND', `${what}: this device has none`)
  if (wanted === undefined || wanted === 'latest') return newest
  const byId = /^[0-9a-f]{4,64}$/.test(wanted) ? backups.filter(({ id }) => id.startsWith(wanted)) : []
  if (byId.length > 1)
    throw new FlotillaError('NOT_FOUND', `${what}: ${byId.length} begin with ${wanted}; give more of it`)
  const untilMs = Date.parse(wanted)
  const chosen = byId[0] ?? backups.filter(({ time }) => Date.parse(time) <= untilMs).at(-1)
  if (chosen !== undefined) return chosen
  const there = backups.slice(-5).map(({ id, time }) => `${id.slice(0, 8)} of ${time.slice(0, 19)}`)
  throw new FlotillaError(
    'NOT_FOUND',
    `${what}: none is ${wanted} (${Number.isNaN(untilMs) ? 'no id and no time' : 'or older'}); there are ${there.join(', ')}`,
  )
}
