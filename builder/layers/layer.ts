import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'

/** A configuration layer: a directory `<namespace>/<name>` of SkiffOS's format. */
export type Layer = {
  /** `namespace/name`; the base and override layers have names of their own, such as `(base)/pre`. */
  readonly name: string
  readonly path: string
  readonly metadata: LayerMetadata
}

/** What a layer says of itself in `metadata/`. */
export type LayerMetadata = {
  readonly description: string
  readonly dependencies: readonly string[]
  /** Commands of `extensions/Makefile` with their descriptions. */
  readonly commands: readonly { readonly target: string; readonly description: string }[]
  readonly unlisted: boolean
  /** Make target instead of Buildroot's `all`. */
  readonly buildTarget: string | undefined
}

/** Both parts: letters, digits, `-`, `_`, `.`; SkiffOS takes neither `-` nor a `_` in the namespace. */
const LAYER_NAME = /^[A-Za-z0-9][\w.-]{0,99}\/[A-Za-z0-9][\w.-]{0,99}$/

/** Text files of a layer are small; a larger one is a slip. */
const MAX_TEXT_BYTES = 4 * 2 ** 20

/** @throws FlotillaError BAD_CONFIG naming where it was written */
export function requireLayerName(text: string, where: string): string {
  if (LAYER_NAME.test(text)) return text
  throw new FlotillaError(
    'BAD_CONFIG',
    `${where}: ${JSON.stringify(text)} is not a layer name such as pi/4 or skiff/core`,
  )
}

/**
 * Splits a list of layer names as SkiffOS writes it: by commas, spaces or lines.
 * @throws FlotillaError BAD_CONFIG for a malformed name: SkiffOS would drop it without a word that stays
 */
export function parseLayerList(text: string, where: string): readonly string[] {
  return text
    .split(/[\s,]+/)
    .filter((part) => part !== '')
    .map((part) => requireLayerName(part, where))
}

/** The environment variable that names a layer's directory, `SKIFF_CONFIG_PATH_PI_4`. */
export function pathVariable(name: string): string {
  return `SKIFF_CONFIG_PATH_${name.replaceAll(/[/.-]/g, '_').toUpperCase()}`
}

/** Reads a layer's metadata. @throws FlotillaError BAD_CONFIG naming file and line, NOT_FOUND when it is no directory */
export function readLayer(name: string, path: string): Layer {
  if (!isDirectory(path)) throw new FlotillaError('NOT_FOUND', `read layer ${name}: ${path} is not a directory`)
  const file = (leaf: string) => join(path, 'metadata', leaf)
  const text = (leaf: string) => (existsSync(file(leaf)) ? readText(file(leaf)) : undefined)
  const dependencies = parseLayerList(text('dependencies') ?? '', file('dependencies'))
  return {
    name,
    path,
    metadata: {
      description: (text('description') ?? '').trim(),
      dependencies,
      commands: existsSync(join(path, 'extensions')) ? parseCommands(text('commands') ?? '', file('commands')) : [],
      unlisted: text('unlisted') !== undefined,
      buildTarget: text('buildtarget')?.trim() || undefined,
    },
  }
}

function parseCommands(text: string, path: string): LayerMetadata['commands'] {
  return text.split('\n').flatMap((line, at) => {
    const trimmed = line.trim()
    if (trimmed === '' || trimmed.startsWith('#')) return []
    const [, target, description] = /^(\S+)\s+(.+)$/.exec(trimmed) ?? []
    if (target === undefined || description === undefined)
      throw new FlotillaError('BAD_CONFIG', `${path}:${at + 1}: wanted a target and its description, found ${trimmed}`)
    return [{ target, description }]
  })
}

/** The files of one of a layer's directories, in the order in which they count: C locale, not natural order. */
export function filesIn(layer: Layer, directory: string): readonly string[] {
  const path = join(layer.path, directory)
  if (!existsSync(path)) return []
  return readdirSync(path, { withFileTypes: true })
    .filter((entry) => !entry.name.startsWith('.') && statSync(join(path, entry.name)).isFile())
    .map((entry) => entry.name)
    .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
    .map((name) => join(path, name))
}

/** True when the layer has the directory. */
export function hasDirectory(layer: Layer, directory: string): boolean {
  return isDirectory(join(layer.path, directory))
}

/** @throws FlotillaError BAD_CONFIG when the file cannot be read or is larger than any text of a layer */
export function readText(path: string): string {
  try {
    const { size } = statSync(path)
    if (size > MAX_TEXT_BYTES) throw new Error(`${size} bytes are more than a layer's text file may have`)
    return readFileSync(path, 'utf8')
  } catch (cause) {
    throw new FlotillaError('BAD_CONFIG', `read ${path}: ${messageOf(cause)}`, { cause })
  }
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true
}
