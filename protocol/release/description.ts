import { createHash } from 'node:crypto'
import { LOADER_FILES } from '../boot/slot-files.ts'
import { FlotillaError } from '../errors.ts'
import { parseRolloutPlan, type RolloutPlan } from '../rollout/rollout-plan.ts'
import { NAME_PATTERN, parseJson, shape } from '../shape.ts'
import { sortedJson } from '../trust/canonical-json.ts'

/** Largest release description that is read, bytes (facts/trust.md 4.2). */
export const MAX_DESCRIPTION_BYTES = 65_536
/** Largest artifact: 16 GiB, so that a wrong length cannot reserve a disk. */
export const MAX_ARTIFACT_BYTES = 16 * 2 ** 30
/** Largest chunk index: 116 000 chunks, some 7 GB of squashfs. */
export const MAX_INDEX_BYTES = 4 * 2 ** 20

/** What an artifact is for. `boot` covers boot files and scripts that lie beside the kernel. */
export const ARTIFACT_KINDS = [
  'kernel',
  'initramfs',
  'dtb',
  'rootfs',
  'modules',
  'boot',
  'container-image',
  'skiff-core',
] as const
export type ArtifactKind = (typeof ARTIFACT_KINDS)[number]

/** One file of a release. `name` is its path in the slot: one or more plain segments. */
export type Artifact = {
  readonly name: string
  readonly kind: ArtifactKind
  readonly lengthBytes: number
  readonly sha256: string
  /** The chunk index of the artifact, by content. */
  readonly index: { readonly lengthBytes: number; readonly sha256: string }
  /** What a container image is called and for which machines; undefined for other kinds, and for archives of before. */
  readonly image?: ContainerImage | undefined
}

/** A container image as an engine knows it. */
export type ContainerImage = {
  /** With its tag. */
  readonly name: string
  /** `sha256:` and the hash of the image's configuration, which covers every layer: the id that an engine gives it. */
  readonly digest: string
  /** As Go calls it: `amd64`, `arm64`, `arm`. */
  readonly architecture: string
}

export type HealthRules = {
  /** Time a trial boot has to pass its checks, seconds. */
  readonly deadlineSeconds: number
  /** Boots that may be tried before the device falls back. */
  readonly tries: number
}

/** What a device needs to know to fetch, judge and boot a release. The TUF target of a board and channel. */
export type ReleaseDescription = {
  readonly schema: 1
  readonly board: string
  readonly channel: string
  readonly version: string
  readonly era: number
  readonly seq: number
  /** After this release is proven, releases below this sequence are refused for good. */
  readonly minSeq: number
  /** Hardware ids the release may run on; a device compares its own. */
  readonly hardware: readonly string[]
  readonly issued: string
  readonly artifacts: readonly Artifact[]
  readonly health: HealthRules
  /** In which order devices boot it. */
  readonly rollout: RolloutPlan
  /** Only devices that run at least this sequence may boot it: before that comes a stepping stone. */
  readonly from: { readonly era: number; readonly seq: number }
  /** Format of the containers' data: what they write, and the oldest that they read. */
  readonly data: { readonly writes: number; readonly reads: number }
  readonly notes: string
}

/** A description with the hash that names the release everywhere: slot directory, records, status. */
export type Release = { readonly id: string; readonly bytes: Uint8Array; readonly description: ReleaseDescription }

/** Files that a slot has besides its artifacts. */
const RESERVED_NAMES = ['description.json', 'proven', ...LOADER_FILES]
const IMAGE_NAME = /^[\w./:-]{1,200}:[\w.-]{1,128}$/
const NAME_SEGMENT = /^[A-Za-z0-9_][A-Za-z0-9._+-]{0,100}$/

/**
 * Parses a release description. The caller has already matched its hash with signed metadata.
 * Unknown members are kept in the bytes and ignored, so that old agents survive new fields.
 * @throws FlotillaError LENGTH, FORMAT
 * @see protocol/spec/release.md
 */
export function parseRelease(bytes: Uint8Array): Release {
  const what = 'release description'
  const json = shape.object(parseJson(bytes, what, MAX_DESCRIPTION_BYTES), what)
  if (json['schema'] !== 1) throw new FlotillaError('FORMAT', `${what}: schema is not 1; a newer agent is needed`)
  const name = (key: string) => shape.matching(json[key], `${what}: ${key}`, NAME_PATTERN, 'a plain lower-case name')
  const artifacts = shape
    .array(json['artifacts'], `${what}: artifacts`, 256)
    .map((item, at) => parseArtifact(item, `${what}: artifacts[${at}]`))
  requireDistinctNames(artifacts.map((artifact) => artifact.name))
  const seq = shape.integer(json['seq'], `${what}: seq`, 1)
  const health = shape.object(json['health'], `${what}: health`)
  const from = { era: 0, seq: 0, ...optionalObject(json['from'], `${what}: from`) }
  const data = { writes: 0, reads: 0, ...optionalObject(json['data'], `${what}: data`) }
  const writes = shape.integer(data.writes, `${what}: data.writes`, 0)
  return {
    id: releaseIdOf(bytes),
    bytes,
    description: {
      schema: 1,
      board: name('board'),
      channel: name('channel'),
      version: shape.matching(json['version'], `${what}: version`, /^[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}$/, 'a version'),
      era: shape.integer(json['era'], `${what}: era`, 0),
      seq,
      minSeq: shape.integer(json['minSeq'], `${what}: minSeq`, 0, seq),
      hardware: shape
        .array(json['hardware'], `${what}: hardware`, 64)
        .map((id) => shape.string(id, `${what}: hardware[]`, 128)),
      issued: shape.string(json['issued'], `${what}: issued`, 32),
      artifacts,
      health: {
        deadlineSeconds: shape.integer(health['deadlineSeconds'], `${what}: health.deadlineSeconds`, 1, 86_400),
        tries: shape.integer(health['tries'], `${what}: health.tries`, 1, 9),
      },
      rollout: parseRolloutPlan(json['rollout'], `${what}: rollout`),
      from: {
        era: shape.integer(from.era, `${what}: from.era`, 0),
        seq: shape.integer(from.seq, `${what}: from.seq`, 0),
      },
      data: { writes, reads: shape.integer(data.reads, `${what}: data.reads`, 0, writes) },
      notes: json['notes'] === undefined ? '' : shape.string(json['notes'], `${what}: notes`, 4096),
    },
  }
}

function optionalObject(value: unknown, path: string): object {
  return value === undefined ? {} : shape.object(value, path)
}

/** The canonical bytes of a description and the id that follows from them. */
export function encodeRelease(description: ReleaseDescription): Release {
  return parseRelease(sortedJson(description))
}

/** SHA-256 of the description's bytes, in hexadecimal. */
function releaseIdOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** Short form for people and for slot directories: FAT needs short names, 16 digits do not collide in a fleet. */
export function shortId(releaseId: string): string {
  return releaseId.slice(0, 16)
}

/** The sum of the artifact lengths, in bytes. */
export function releaseBytes(description: ReleaseDescription): number {
  return description.artifacts.reduce((sum, artifact) => sum + artifact.lengthBytes, 0)
}

function parseArtifact(value: unknown, path: string): Artifact {
  const json = shape.object(value, path)
  const index = shape.object(json['index'], `${path}.index`)
  const name = shape.string(json['name'], `${path}.name`, 200)
  // A path from a signed file is still not trusted to stay inside the slot.
  if (name.split('/').length > 4 || !name.split('/').every((segment) => NAME_SEGMENT.test(segment))) {
    throw new FlotillaError('FORMAT', `${path}.name: ${JSON.stringify(name)} is not a plain relative path`)
  }
  return {
    name,
    kind: shape.oneOf(json['kind'], `${path}.kind`, ARTIFACT_KINDS),
    lengthBytes: shape.integer(json['lengthBytes'], `${path}.lengthBytes`, 0, MAX_ARTIFACT_BYTES),
    sha256: shape.hex32(json['sha256'], `${path}.sha256`),
    index: {
      lengthBytes: shape.integer(index['lengthBytes'], `${path}.index.lengthBytes`, 1, MAX_INDEX_BYTES),
      sha256: shape.hex32(index['sha256'], `${path}.index.sha256`),
    },
    ...(json['image'] === undefined ? {} : { image: parseImage(json['image'], `${path}.image`) }),
  }
}

function parseImage(value: unknown, path: string): ContainerImage {
  const json = shape.object(value, path)
  return {
    name: shape.matching(json['name'], `${path}.name`, IMAGE_NAME, 'an image name with its tag'),
    digest: shape.matching(json['digest'], `${path}.digest`, /^sha256:[0-9a-f]{64}$/, 'sha256: and 64 digits'),
    architecture: shape.matching(json['architecture'], `${path}.architecture`, /^[a-z0-9]{1,16}$/, 'an architecture'),
  }
}

function requireDistinctNames(names: readonly string[]): void {
  const lower = names.map((name) => name.toLowerCase())
  if (new Set(lower).size !== lower.length) {
    throw new FlotillaError('FORMAT', 'release description: two artifacts of one name (FAT does not tell case apart)')
  }
  for (const name of [...lower, ...RESERVED_NAMES]) {
    if (lower.some((other) => other !== name && other.startsWith(`${name}/`))) {
      throw new FlotillaError('FORMAT', `release description: ${name} is both a file and a directory`)
    }
  }
  const reserved = RESERVED_NAMES.find((name) => lower.includes(name))
  if (reserved !== undefined) {
    throw new FlotillaError('FORMAT', `release description: ${reserved} is a name that slots keep for themselves`)
  }
}
