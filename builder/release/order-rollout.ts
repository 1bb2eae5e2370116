import { FlotillaError } from '../../protocol/errors.ts'
import type { Release } from '../../protocol/release/description.ts'
import { composeRole, type MetadataJson, signedFilesOf } from './compose-metadata.ts'
import type { Repository } from './repository.ts'

/** What the signers say about a published release: stop it, take it back, or open its waves. */
export type RolloutOrder =
  | { readonly halted: { readonly reason: string; readonly recall: boolean } }
  | { readonly openWaves: number }

/**
 * The next version of the role that signs the release, with the order added to it. Unsigned. Everything else that the
 * role signs stays as it is; a halt stays when waves are opened, since devices do not forget it anyway.
 * @throws FlotillaError NOT_FOUND when the release is not published any more, ALREADY_EXISTS when that was ordered before
 */
export function orderRollout(
  repository: Repository,
  release: Release,
  order: RolloutOrder,
  nowMs: number,
): ReadonlyMap<string, MetadataJson> {
  const { board, channel, version } = release.description
  const name = `${board}.${channel}`
  const current = repository.currentRole(name)
  const files = signedFilesOf(current)
  const path = [...files].find(([, file]) => file.sha256 === release.id)?.[0]
  const file = path === undefined ? undefined : files.get(path)
  if (path === undefined || file === undefined) {
    throw new FlotillaError(
      'NOT_FOUND',
      `order for ${board}@${version}: it is not published any more, so no device will boot it`,
    )
  }
  const before = file.custom?.['flotilla'] ?? {}
  const flotilla = { ...before, ...order }
  if (JSON.stringify(before) === JSON.stringify(flotilla))
    throw new FlotillaError('ALREADY_EXISTS', `order for ${board}@${version}: that is what is signed already`)
  files.set(path, { ...file, custom: { ...file.custom, flotilla } })
  return new Map([[name, composeRole(name, (current?.signed.version ?? 0) + 1, nowMs, files)]])
}
