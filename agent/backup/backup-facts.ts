import { parseJson, shape } from '../../protocol/shape.ts'

/** What lies beside the files of a backup, in `backup.json`: how to make a container of them again. */
export type BackupFacts = {
  readonly format: 1
  readonly container: string
  readonly device: string
  /** The writable layer alone, on an image that the fleet has; the merged tree with what is needed to make an image of it; or none. */
  readonly fileSystem: 'layer' | 'tree' | 'none'
  readonly image: { readonly id: string; readonly name: string }
  readonly parts: readonly BackupPart[]
  readonly consistency: 'none' | 'pause' | 'stop'
  /** The whole `skiff-core.yaml` that the container was made from. */
  readonly coreFile: string
}

/** A volume or bind mount, and the directory of the backup that it is in. */
export type BackupPart = {
  readonly at: string
  readonly kind: 'volume' | 'bind'
  /** Name of the volume, or path on the host. */
  readonly source: string
  readonly target: string
  /** A bind mount of one file. */
  readonly isFile: boolean
}

/** Names in a backup. */
export const LAYER = 'layer'
export const FACTS_FILE = 'backup.json'
export const INSPECT_FILE = 'inspect.json'
export const IMAGE_FILE = 'image.json'
const MAX_BYTES = 1_048_576

export function encodeBackupFacts(facts: BackupFacts): string {
  return `${JSON.stringify(facts, null, 1)}\n`
}

/** @throws FlotillaError FORMAT, LENGTH */
export function parseBackupFacts(text: string): BackupFacts {
  const json = shape.object(parseJson(Buffer.from(text), FACTS_FILE, MAX_BYTES), FACTS_FILE)
  const string = (value: unknown, key: string, max = 4_096) => shape.string(value, `${FACTS_FILE}: ${key}`, max)
  const image = shape.object(json['image'], `${FACTS_FILE}: image`)
  shape.integer(json['format'], `${FACTS_FILE}: format`, 1, 1)
  return {
    format: 1,
    container: string(json['container'], 'container', 128),
    device: string(json['device'], 'device', 128),
    fileSystem: shape.oneOf(json['fileSystem'], `${FACTS_FILE}: fileSystem`, ['layer', 'tree', 'none']),
    image: { id: string(image['id'], 'image.id', 128), name: string(image['name'], 'image.name', 512) },
    parts: shape.array(json['parts'], `${FACTS_FILE}: parts`, 256).map((item) => {
      const part = shape.object(item, `${FACTS_FILE}: parts[]`)
      return {
        at: shape.matching(part['at'], `${FACTS_FILE}: parts[].at`, /^mount-\d+$/, 'a name such as mount-0'),
        kind: shape.oneOf(part['kind'], `${FACTS_FILE}: parts[].kind`, ['volume', 'bind']),
        source: string(part['source'], 'parts[].source'),
        target: string(part['target'], 'parts[].target'),
        isFile: shape.boolean(part['isFile'], `${FACTS_FILE}: parts[].isFile`),
      }
    }),
    consistency: shape.oneOf(json['consistency'], `${FACTS_FILE}: consistency`, ['none', 'pause', 'stop']),
    coreFile: string(json['coreFile'], 'coreFile', MAX_BYTES),
  }
}
