import { constants, copyFileSync, existsSync, readFileSync, renameSync } from 'node:fs'
import { parseSkiffCore } from '../../protocol/core/skiff-core.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import {
  type Artifact,
  type ContainerImage,
  encodeRelease,
  type HealthRules,
  type Release,
  type ReleaseDescription,
} from '../../protocol/release/description.ts'
import { releasePath, stonePath } from '../../protocol/release/find-release.ts'
import type { RolloutPlan } from '../../protocol/rollout/rollout-plan.ts'
import { NAME_PATTERN } from '../../protocol/shape.ts'
import { collectImages } from '../images/collect-images.ts'
import {
  composeRole,
  composeTargets,
  type Delegation,
  isoSeconds,
  type MetadataJson,
  type SignedFile,
  signedFile,
  signedFilesOf,
} from './compose-metadata.ts'
import type { FleetKeys } from './fleet-keys.ts'
import { indexArtifact } from './index-artifact.ts'
import { releaseDelegation } from './init-fleet.ts'
import type { Repository } from './repository.ts'

export type CreateReleaseOptions = {
  readonly board: string
  readonly channel: string
  readonly version: string
  readonly images: string
  /** What the container images among them hold, by artifact name. */
  readonly containerImages: ReadonlyMap<string, ContainerImage>
  readonly hardware: readonly string[]
  readonly minSeq: number | undefined
  readonly health: HealthRules
  readonly rollout: RolloutPlan
  /** Release that must be booted first (a stepping stone); `none` drops those of before; undefined keeps them. */
  readonly from: Release | 'none' | undefined
  /** Data format of the containers; undefined keeps that of the release before. */
  readonly data: ReleaseDescription['data'] | undefined
  readonly notes: string
  readonly nowMs: number
  readonly onProgress: (name: string, doneBytes: number) => void
}

/** A release that was indexed and stored, with the metadata that has to be signed for it. */
export type PreparedRelease = { readonly release: Release; readonly roles: ReadonlyMap<string, MetadataJson> }

/**
 * Indexes the images, stores artifacts, indexes and description in the repository, and composes the metadata that
 * names them: the role of the board and channel, and `targets` when that role is new.
 * @throws FlotillaError BAD_INPUT, BAD_CONFIG for a wrong skiff-core.yaml, ALREADY_EXISTS when nothing changed since the current release
 */
export function prepareRelease(
  repository: Repository,
  keys: Pick<FleetKeys, 'ci' | 'manager'>,
  options: CreateReleaseOptions,
): PreparedRelease {
  for (const [what, name] of [
    ['board', options.board],
    ['channel', options.channel],
  ] as const) {
    if (!NAME_PATTERN.test(name))
      throw new FlotillaError(
        'BAD_INPUT',
        `create release: ${what} ${JSON.stringify(name)} is not a plain lower-case name (a layer pi/4 is the board pi-4)`,
      )
  }
  const images = collectImages(options.images)
  for (const { path } of images.filter(({ kind }) => kind === 'skiff-core'))
    parseSkiffCore(readFileSync(path, 'utf8'), path) // better here than on every device
  const artifacts = images.map((image): Artifact => {
    const indexed = indexArtifact(image.path, (bytes) => options.onProgress(image.name, bytes))
    keepArtifact(repository, image.path, indexed.sha256)
    const index = { lengthBytes: indexed.index.bytes.length, sha256: repository.writeBlob(indexed.index.bytes) }
    const { name, kind } = image
    const container = options.containerImages.get(name)
    const artifact = { name, kind, lengthBytes: indexed.lengthBytes, sha256: indexed.sha256, index }
    return container === undefined ? artifact : { ...artifact, image: container }
  })
  const before = repository
    .releases()
    .find(
      ({ release }) => release.description.board === options.board && release.description.channel === options.channel,
    )?.release.description
  if (
    before !== undefined &&
    before.version === options.version &&
    JSON.stringify(before.artifacts) === JSON.stringify(artifacts)
  ) {
    throw new FlotillaError(
      'ALREADY_EXISTS',
      `create release: ${options.board}@${options.version} is published with exactly these images`,
    )
  }
  const era = (repository.currentRole('targets')?.signed['x-era'] as number | undefined) ?? 1
  const seq =
    Math.max(
      0,
      ...repository
        .allReleases()
        .filter(({ description }) => description.board === options.board && description.channel === options.channel)
        .map(({ description }) => description.seq),
    ) + 1
  const release = encodeRelease({
    schema: 1,
    board: options.board,
    channel: options.channel,
    version: options.version,
    era,
    seq,
    minSeq: Math.min(seq, options.minSeq ?? before?.minSeq ?? 0),
    hardware: options.hardware.length > 0 ? options.hardware : [options.board],
    issued: isoSeconds(options.nowMs),
    artifacts,
    health: options.health,
    rollout: options.rollout,
    from: fromOf(options.from, before),
    data: options.data ?? before?.data ?? { writes: 0, reads: 0 },
    notes: options.notes,
  })
  repository.writeBlob(release.bytes)
  return { release, roles: composeRoles(repository, keys, release, options) }
}

function composeRoles(
  repository: Repository,
  keys: Pick<FleetKeys, 'ci' | 'manager'>,
  release: Release,
  { nowMs, from }: Pick<CreateReleaseOptions, 'nowMs' | 'from'>,
): ReadonlyMap<string, MetadataJson> {
  const { board, channel } = release.description
  const name = `${board}.${channel}`
  const roles = new Map<string, MetadataJson>()
  const delegations = currentDelegations(repository)
  if (!delegations.some((delegation) => delegation.name === name)) {
    const targets = repository.currentRole('targets')
    const era = (targets?.signed['x-era'] as number | undefined) ?? 1
    roles.set(
      'targets',
      composeTargets((targets?.signed.version ?? 0) + 1, nowMs, era, [
        ...delegations,
        releaseDelegation(board, channel, keys),
      ]),
    )
  }
  const version = (repository.currentRole(name)?.signed.version ?? 0) + 1
  const current = repository.currentRole(name)
  // Stepping stones stay signed until somebody says `--from none`: a device may come back after years.
  const files = from === 'none' ? new Map<string, SignedFile>() : signedFilesOf(current)
  files.set(releasePath(board, channel), signedFile(release.bytes))
  if (from !== undefined && from !== 'none') {
    files.set(stonePath(board, channel, from.description.seq), signedFile(from.bytes))
  }
  roles.set(name, composeRole(name, version, nowMs, files))
  return roles
}

function fromOf(from: CreateReleaseOptions['from'], before: ReleaseDescription | undefined) {
  if (from === 'none') return { era: 0, seq: 0 }
  if (from === undefined) return before?.from ?? { era: 0, seq: 0 }
  return { era: from.description.era, seq: from.description.seq }
}

/** The delegations of the published targets metadata, with public keys instead of ids. */
export function currentDelegations(repository: Repository): readonly Delegation[] {
  const json = repository.currentRole('targets')?.signed['delegations'] as
    | {
        keys: Record<string, { keyval: { public: string } }>
        roles: { name: string; keyids: string[]; threshold: number; paths: string[] }[]
      }
    | undefined
  return (json?.roles ?? []).map((role) => ({
    name: role.name,
    keys: role.keyids.map((id) => json?.keys[id]?.keyval.public ?? ''),
    threshold: role.threshold,
    paths: role.paths,
  }))
}

// A reflink where the file system has them; otherwise a copy, renamed into place when it is whole.
function keepArtifact(repository: Repository, path: string, sha256: string): void {
  const target = repository.artifactPath(sha256)
  if (existsSync(target)) return
  copyFileSync(path, `${target}.new`, constants.COPYFILE_FICLONE)
  renameSync(`${target}.new`, target)
}
