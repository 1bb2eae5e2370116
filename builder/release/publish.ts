import { FlotillaError } from '../../protocol/errors.ts'
import { judgeBundle } from '../../protocol/trust/metadata-bundle.ts'
import { DEVICE_RULES, trustRoot, type TrustedSet } from '../../protocol/trust/trusted-set.ts'
import {
  composeSnapshot,
  composeTimestamp,
  type MetadataJson,
  metadataBytes,
  signMetadata,
} from './compose-metadata.ts'
import type { SigningKey } from './key-file.ts'
import type { Repository } from './repository.ts'

/** Roles that a publication changes, by name; `root` among them only on its own. */
export type SignedRoles = ReadonlyMap<string, MetadataJson>

export type PublishOptions = {
  readonly publishers: readonly SigningKey[]
  readonly nowMs: number
  /** The clients that still hold an older root than this refuse to act. */
  readonly minRoot: number | undefined
}

/**
 * Publishes signed roles: makes snapshot and timestamp over them, verifies the whole as a device would, then writes,
 * timestamp last. Nothing is written when anything is wrong.
 * @throws FlotillaError SIGNATURE below threshold, ROLLBACK, or whatever a device would say
 */
export function publishRoles(repository: Repository, changed: SignedRoles, options: PublishOptions): TrustedSet {
  const first = repository.roots()[0]
  const rootJson = changed.get('root')
  const roots = rootJson === undefined ? repository.roots() : [...repository.roots(), metadataBytes(rootJson)]
  const base = first ?? roots[0]
  if (base === undefined) throw new FlotillaError('MISSING', 'publish: there is no root metadata')

  const roles = new Map(repository.bundle().roles)
  for (const [name, json] of changed) if (name !== 'root') roles.set(name, metadataBytes(json))
  const snapshotVersion = (repository.currentRole('snapshot')?.signed.version ?? 0) + 1
  const timestampVersion = (repository.currentRole('timestamp')?.signed.version ?? 0) + 1
  const snapshot = metadataBytes(
    signMetadata(composeSnapshot(snapshotVersion, options.nowMs, roles), options.publishers.slice(0, 1)),
  )
  const minRoot = options.minRoot ?? roots.length
  const timestamp = metadataBytes(
    signMetadata(composeTimestamp(timestampVersion, options.nowMs, snapshot, minRoot), options.publishers.slice(0, 1)),
  )

  const before = repository.roots().length === 0 ? trustRoot(base, 0, DEVICE_RULES) : repository.trustedSet()
  const newRoots = rootJson === undefined || repository.roots().length === 0 ? [] : [metadataBytes(rootJson)]
  const verdict = judgeBundle(before, { roots: newRoots, timestamp, snapshot, roles, policy: undefined }, DEVICE_RULES)
  if (verdict.refusal !== undefined)
    throw new FlotillaError(verdict.refusal.code, `publish: a device would refuse this: ${verdict.refusal.message}`, {
      cause: verdict.refusal,
    })

  if (rootJson !== undefined) repository.writeMetadata(`${rootJson.signed.version}.root.json`, metadataBytes(rootJson))
  for (const [name, json] of changed)
    if (name !== 'root') repository.writeMetadata(`${json.signed.version}.${name}.json`, metadataBytes(json))
  repository.writeMetadata(`${snapshotVersion}.snapshot.json`, snapshot)
  repository.writeMetadata('timestamp.json', timestamp)
  return repository.trustedSet()
}
