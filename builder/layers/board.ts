import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { parseDocument } from 'yaml'
import { BOOT_FAMILIES, type BootFamily, parseCommandLine } from '../../protocol/boot/slot-files.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { shape } from '../../protocol/shape.ts'
import { type Layer, readText } from './layer.ts'

/** What a board layer declares in `metadata/board.yaml`. */
export type Board = {
  readonly name: string
  readonly arch: string
  readonly family: BootFamily
  /** Device-tree compatibles, a name of our own where there is no device tree: what a release carries, compared as it is. */
  readonly hardware: readonly string[]
  readonly kernel: string
  readonly bootloader: string
  /** What its kernel has to be told besides Flotilla's own words; goes into each release as the artifact `cmdline`. */
  readonly commandLine: string
  /** Where proprietary code comes in. */
  readonly blobs: string
  /** How a medium is laid out that it boots from; undefined where something else starts it, such as an engine. */
  readonly layout: BoardLayout | undefined
}

/** `gpt`, or `dos` where the boot ROM reads code from where a GPT has its table, or knows no GPT. */
export type BoardLayout = {
  readonly table: 'gpt' | 'dos'
  /** Code that the boot ROM or the firmware reads at a fixed place. */
  readonly raw: readonly RawImage[]
  /** A directory of the images whose files lie in the root of the boot partition, such as `rpi-firmware`. */
  readonly bootFiles: string | undefined
}

/** Bytes of a file of the images, at a place of the medium. @property atBytes - on the medium @property fromBytes - in the file */
export type RawImage = {
  readonly file: string
  readonly atBytes: number
  readonly fromBytes: number
  readonly lengthBytes: number | undefined
}

/** The boot partition begins behind it. */
export const FIRST_PARTITION_BYTES = 16 * 2 ** 20

const KEYS = ['arch', 'family', 'hardware', 'kernel', 'bootloader', 'blobs', 'commandLine', 'layout']

/** The board that a layer is, undefined when it is none. @throws FlotillaError BAD_CONFIG with the file and the key */
export function readBoard(layer: Layer): Board | undefined {
  const file = join(layer.path, 'metadata/board.yaml')
  if (!existsSync(file)) return undefined
  const document = parseDocument(readText(file), { uniqueKeys: true, logLevel: 'error' })
  const problem = document.errors[0]
  if (problem !== undefined) throw new FlotillaError('BAD_CONFIG', `${file}: ${problem.message}`)
  try {
    const json = shape.object(document.toJS({ maxAliasCount: 0 }), file)
    shape.onlyKeys(json, file, KEYS)
    const text = (key: string) => shape.string(json[key], `${file}: ${key}`, 200)
    return {
      name: layer.name,
      arch: shape.oneOf(json['arch'], `${file}: arch`, ['armv6', 'armv7', 'aarch64', 'x86_64']),
      family: shape.oneOf(json['family'], `${file}: family`, BOOT_FAMILIES),
      hardware: shape
        .array(json['hardware'], `${file}: hardware`, 16)
        .map((id) => shape.string(id, `${file}: hardware[]`, 128)),
      kernel: text('kernel'),
      bootloader: text('bootloader'),
      commandLine: parseCommandLine(json['commandLine'] === undefined ? '' : text('commandLine')),
      blobs: text('blobs'),
      layout: json['layout'] === 'none' ? undefined : toLayout(json['layout'], `${file}: layout`),
    }
  } catch (cause) {
    throw new FlotillaError('BAD_CONFIG', messageOf(cause), { cause })
  }
}

function toLayout(value: unknown, path: string): BoardLayout {
  const json = shape.object(value, path)
  shape.onlyKeys(json, path, ['table', 'raw', 'bootFiles'])
  return {
    table: shape.oneOf(json['table'], `${path}.table`, ['gpt', 'dos']),
    raw: shape.array(json['raw'] ?? [], `${path}.raw`, 16).map((item) => toRawImage(item, `${path}.raw[]`)),
    bootFiles: json['bootFiles'] === undefined ? undefined : shape.string(json['bootFiles'], `${path}.bootFiles`, 128),
  }
}

function toRawImage(value: unknown, path: string): RawImage {
  const json = shape.object(value, path)
  shape.onlyKeys(json, path, ['file', 'at', 'from', 'length'])
  const bytes = (key: string, most: number) => shape.integer(json[key] ?? 0, `${path}.${key}`, 0, most)
  return {
    file: shape.string(json['file'], `${path}.file`, 128),
    atBytes: bytes('at', FIRST_PARTITION_BYTES),
    fromBytes: bytes('from', 2 ** 31),
    lengthBytes: json['length'] === undefined ? undefined : bytes('length', FIRST_PARTITION_BYTES),
  }
}
