import type { BackupSpec } from '../../protocol/core/backup-spec.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import { type BackupPart, LAYER } from './backup-facts.ts'

/** A mount of a container, as Docker shows it. */
export type FoundMount = {
  readonly kind: 'volume' | 'bind' | 'other'
  /** Name of the volume, or path on the host. */
  readonly source: string
  /** Where its content lies on the host. */
  readonly path: string
  readonly target: string
  readonly writable: boolean
}

export type CaptureFacts = {
  readonly container: string
  readonly spec: BackupSpec
  readonly mounts: readonly FoundMount[]
  /** Bind mounts below it are the container's own data; others are the host's, and only saved when they are named. */
  readonly dataDirectory: string
  /** Paths that are a file, or a directory; a device or a socket is neither. */
  readonly isFile: (path: string) => boolean
  readonly isDirectory: (path: string) => boolean
}

export type CapturePlan = {
  readonly parts: readonly (BackupPart & { readonly path: string })[]
  /** Patterns of restic, below the staging directory. */
  readonly exclude: readonly string[]
}

/**
 * What of a container's mounts is saved, and under which names. Pure but for the two questions about paths.
 * @throws FlotillaError BAD_CONFIG for a mount that the policy names and the container does not have
 */
export function planCapture(facts: CaptureFacts, stage: string): CapturePlan {
  const { container, spec, mounts, dataDirectory, isFile, isDirectory } = facts
  const names = (mount: FoundMount) => [mount.target.replace(/\/+$/, ''), mount.source]
  for (const wanted of spec.mounts ?? []) {
    const found = mounts.find(
      (mount) => mount.kind !== 'other' && names(mount).includes(wanted.replace(/(.)\/+$/, '$1')),
    )
    if (found === undefined)
      throw new FlotillaError(
        'BAD_CONFIG',
        `back up ${container}: containers.${container}.backup.mounts names ${wanted}, which is none of its mounts (${mounts.map(({ target }) => target).join(', ') || 'it has none'})`,
      )
  }
  const chosen = mounts.filter((mount) => {
    if (mount.kind === 'other' || (!isFile(mount.path) && !isDirectory(mount.path))) return false
    if (spec.mounts !== undefined)
      return spec.mounts.some((wanted) => names(mount).includes(wanted.replace(/(.)\/+$/, '$1')))
    return mount.writable && (mount.kind === 'volume' || mount.path.startsWith(`${dataDirectory}/`))
  })
  const parts = [...chosen]
    .sort((a, b) => (a.target < b.target ? -1 : 1))
    .map(({ kind, source, target, path }, at) => ({
      at: `mount-${at}`,
      kind: kind === 'volume' ? ('volume' as const) : ('bind' as const),
      source,
      target,
      path,
      isFile: isFile(path),
    }))
  return { parts, exclude: spec.exclude.map((pattern) => below(pattern, parts, stage)) }
}

/** A path of the container as one of the staging directory; what is no path stays as it is. */
function below(pattern: string, parts: readonly BackupPart[], stage: string): string {
  if (!pattern.startsWith('/')) return pattern
  const part = parts
    .filter(({ target }) => pattern.startsWith(`${target}/`))
    .sort((a, b) => b.target.length - a.target.length)[0]
  return part === undefined ? `${stage}/${LAYER}${pattern}` : `${stage}/${part.at}${pattern.slice(part.target.length)}`
}
