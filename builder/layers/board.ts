import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { parseDocument } from 'yaml'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { shape } from '../../protocol/shape.ts'
import { type Layer, readText } from './layer.ts'

/** How a board boots: the adapter that the agent uses on it. */
export const BOOT_FAMILIES = [
  'systemd-boot',
  'uboot',
  'raspberry-pi',
  'grub',
  'extlinux',
  'container',
  'directory',
] as const
export type BootFamily = (typeof BOOT_FAMILIES)[number]

/** What a board layer declares in `metadata/board.yaml`. */
export type Board = {
  readonly name: string
  readonly arch: string
  readonly family: BootFamily
  /** Device-tree compatibles, a name of our own where there is no device tree: what a release carries, compared as it is. */
  readonly hardware: readonly string[]
  readonly kernel: string
  readonly bootloader: string
  /** Where proprietary code comes in. */
  readonly blobs: string
  /** The partition layout, by name. */
  readonly layout: string
}

const KEYS = ['arch', 'family', 'hardware', 'kernel', 'bootloader', 'blobs', 'layout']

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
      blobs: text('blobs'),
      layout: text('layout'),
    }
  } catch (cause) {
    throw new FlotillaError('BAD_CONFIG', messageOf(cause), { cause })
  }
}
