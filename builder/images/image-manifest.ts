import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { BOOT_FAMILIES, type BootFamily } from '../../protocol/boot/slot-files.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { NAME_PATTERN, parseJson, shape } from '../../protocol/shape.ts'
import type { Board } from '../layers/board.ts'

/** The file beside the images that says which of them make up a release. */
export const MANIFEST = 'flotilla.json'
const MAX_BYTES = 262_144
const MAX_FILES = 4_096

/** What a build made: which files are a release's, for which devices, from what. */
export type ImageManifest = {
  /** The board as releases name it: the layer `pi/4` is `pi-4`. */
  readonly board: string
  readonly hardware: readonly string[]
  /** How the board boots; a manifest that does not say stands for one that starts a kernel. */
  readonly family: BootFamily | undefined
  readonly layers: string
  readonly buildroot: string
  /** Relative to the manifest, with `/`. */
  readonly files: readonly string[]
}

/** A layer's name as a plain name: `pi/4` becomes `pi-4`. */
export function boardName(layer: string): string {
  return layer.toLowerCase().replaceAll(/[/_.]/g, '-')
}

export function manifestFor(
  board: Board,
  built: { readonly layers: string; readonly buildroot: string; readonly files: readonly string[] },
): ImageManifest {
  return { board: boardName(board.name), hardware: board.hardware, family: board.family, ...built }
}

export function writeManifest(directory: string, manifest: ImageManifest): void {
  writeFileSync(join(directory, MANIFEST), `${JSON.stringify({ schema: 1, ...manifest }, null, 2)}\n`)
}

/** The manifest of a directory of images, undefined when it has none. @throws FlotillaError BAD_INPUT with what is wrong in it */
export function readManifest(directory: string): ImageManifest | undefined {
  const file = join(directory, MANIFEST)
  if (!existsSync(file)) return undefined
  try {
    const json = shape.object(parseJson(readFileSync(file), file, MAX_BYTES), file)
    shape.integer(json['schema'], `${file}: schema`, 1, 1)
    return {
      board: shape.matching(json['board'], `${file}: board`, NAME_PATTERN, 'a plain lower-case name'),
      hardware: shape
        .array(json['hardware'], `${file}: hardware`, 16)
        .map((id) => shape.string(id, `${file}: hardware[]`, 128)),
      family: json['family'] === undefined ? undefined : shape.oneOf(json['family'], `${file}: family`, BOOT_FAMILIES),
      layers: shape.string(json['layers'], `${file}: layers`, 16_384),
      buildroot: shape.string(json['buildroot'], `${file}: buildroot`, 64),
      files: shape.array(json['files'], `${file}: files`, MAX_FILES).map((item) => inside(item, `${file}: files[]`)),
    }
  } catch (cause) {
    throw new FlotillaError('BAD_INPUT', `read ${file}: ${messageOf(cause)}`, { cause })
  }
}

/** A path that stays below the directory. */
function inside(value: unknown, what: string): string {
  const path = shape.string(value, what, 512)
  if (path.split('/').some((part) => part === '' || part === '.' || part === '..'))
    throw new FlotillaError('BAD_INPUT', `${what}: ${JSON.stringify(path)} is not a path below it`)
  return path
}
