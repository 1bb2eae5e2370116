import { createHash } from 'node:crypto'
import { existsSync, lstatSync, readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs'
import { join } from 'node:path'
import { parseSkiffCore } from '../../protocol/core/skiff-core.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import { type FragmentKind, type MergedSymbol, mergeSettings, parseFragment, type Setting } from './kconfig-fragment.ts'
import { filesIn, hasDirectory, type Layer, readText } from './layer.ts'

/** What a chain of layers amounts to: everything that the build takes from them. */
export type Composition = {
  /** Base, requested layers with their dependencies, overrides, base: the order in which they count. */
  readonly layers: readonly Layer[]
  readonly symbols: Readonly<Record<FragmentKind, ReadonlyMap<string, MergedSymbol>>>
  /** Every setting of a kind in order, for files that are handed to a program one by one. */
  readonly settings: Readonly<Record<FragmentKind, readonly Setting[]>>
  /** Directories, in the order in which they are applied. */
  readonly externals: readonly string[]
  readonly overlays: readonly string[]
  readonly patches: Readonly<Record<'buildroot' | 'kernel' | 'uboot', readonly string[]>>
  readonly users: readonly string[]
  /** Files of Buildroot's makedev format, which SkiffOS has no place for: modes and owners of what layers bring. */
  readonly permissions: readonly string[]
  readonly hooks: Readonly<Record<'pre' | 'post', readonly { readonly layer: string; readonly script: string }[]>>
  readonly cflags: readonly string[]
  readonly buildTarget: string | undefined
  /** The file of containers that the release carries: `resources/skiff-core.yaml` of the last layer that has one. */
  readonly core: string | undefined
  /** What is odd but does not stop a build. */
  readonly warnings: readonly string[]
  /** Of everything that goes in: when it changes, the build is configured anew. */
  readonly sha256: string
}

/** What a chain is made of, besides what was asked for. */
export type Chain = {
  readonly base: { readonly pre: readonly Layer[]; readonly post: readonly Layer[] }
  readonly requested: readonly Layer[]
  /** `overrides/` and `overrides/workspaces/<workspace>/`, as far as they are there. */
  readonly overrides: readonly Layer[]
  /** The layers are somebody else's: what is malformed in a fragment is warned of, as SkiffOS would skip it silently. */
  readonly lenient: boolean
}

/** The variables that join the layers; the builder sets them, so a layer's own setting would be lost. */
export const WIRING: readonly string[] = [
  'BR2_DEFCONFIG',
  'BR2_GLOBAL_PATCH_DIR',
  'BR2_LINUX_KERNEL_CONFIG_FRAGMENT_FILES',
  'BR2_LINUX_KERNEL_PATCH',
  'BR2_PACKAGE_BUSYBOX_CONFIG_FRAGMENT_FILES',
  'BR2_ROOTFS_DEVICE_TABLE',
  'BR2_ROOTFS_OVERLAY',
  'BR2_ROOTFS_POST_BUILD_SCRIPT',
  'BR2_ROOTFS_POST_IMAGE_SCRIPT',
  'BR2_ROOTFS_USERS_TABLES',
  'BR2_TARGET_UBOOT_CONFIG_FRAGMENT_FILES',
  'BR2_TARGET_UBOOT_PATCH',
]
/** What a BR2_EXTERNAL tree must have, or Buildroot stops. */
const EXTERNAL_FILES = ['external.desc', 'external.mk', 'Config.in']
const CORE_FILE = 'resources/skiff-core.yaml'
/** In place of the layer's path, in fragments. */
const ROOT_TOKEN = /SKIFF_CONFIG_ROOT/g

/**
 * Merges a chain of layers. Reads files, changes none.
 * @throws FlotillaError BAD_CONFIG with file and line
 */
export function composeLayers({ base, requested, overrides, lenient }: Chain): Composition {
  const problems: string[] = []
  const onProblem = lenient ? (problem: FlotillaError) => void problems.push(problem.message) : undefined
  const layers = [...base.pre, ...requested, ...overrides, ...base.post]
  const settings = byKind((kind) => layers.flatMap((layer) => readSettings(layer, kind, onProblem)))
  const symbols = byKind((kind) => mergeSettings(settings[kind]))
  const directories = (name: string) =>
    layers.filter((layer) => hasDirectory(layer, name)).map(({ path }) => join(path, name))
  const files = (name: string) => layers.flatMap((layer) => filesIn(layer, name))
  const hooks = (moment: 'pre' | 'post') =>
    layers.flatMap((layer) =>
      filesIn(layer, 'hooks')
        .filter((path) => path === join(layer.path, 'hooks', `${moment}.sh`))
        .map((script) => ({ layer: layer.name, script })),
    )
  const externals = directories('buildroot_ext')
  const core = layers.map(({ path }) => join(path, CORE_FILE)).findLast((path) => existsSync(path))
  const names = externals.map(externalName)
  requireUnique(names, externals)
  return {
    layers,
    settings,
    symbols,
    externals,
    overlays: directories('root_overlay'),
    patches: {
      buildroot: directories('buildroot_patches'),
      kernel: directories('kernel_patches'),
      uboot: directories('uboot_patches'),
    },
    users: files('users'),
    permissions: files('permissions'),
    hooks: { pre: hooks('pre'), post: hooks('post') },
    cflags: files('cflags').flatMap((path) => cflagsOf(readText(path))),
    buildTarget: layers.find((layer) => layer.metadata.buildTarget !== undefined)?.metadata.buildTarget,
    core,
    warnings: [
      ...problems,
      ...wiringWarnings(symbols.buildroot, [...base.pre, ...base.post], files('permissions').length > 0),
      ...cflagsWarning(symbols.buildroot, files('cflags')),
      ...(core === undefined ? [] : parseSkiffCore(readText(core), core, { lenient }).warnings),
    ],
    sha256: hashTrees(layers),
  }
}

function byKind<T>(make: (kind: FragmentKind) => T): Readonly<Record<FragmentKind, T>> {
  return { buildroot: make('buildroot'), kernel: make('kernel'), busybox: make('busybox'), uboot: make('uboot') }
}

function readSettings(
  layer: Layer,
  kind: FragmentKind,
  onProblem: ((problem: FlotillaError) => void) | undefined,
): readonly Setting[] {
  return filesIn(layer, kind).flatMap((path) =>
    parseFragment(kind, readText(path).replaceAll(ROOT_TOKEN, layer.path), path, onProblem),
  )
}

function cflagsOf(text: string): readonly string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
}

/** The name of a BR2_EXTERNAL tree. @throws FlotillaError BAD_CONFIG when it is not one */
function externalName(path: string): string {
  const present = readdirSync(path)
  const missing = EXTERNAL_FILES.filter((name) => !present.includes(name))
  if (missing.length > 0)
    throw new FlotillaError('BAD_CONFIG', `${path}: a BR2_EXTERNAL tree needs ${missing.join(', ')}`)
  const name = /^name:\s*(\w+)\s*$/m.exec(readText(join(path, 'external.desc')))?.[1]
  if (name === undefined)
    throw new FlotillaError('BAD_CONFIG', `${path}/external.desc: wanted a line "name: SOMETHING"`)
  return name
}

function requireUnique(names: readonly string[], paths: readonly string[]): void {
  for (const [at, name] of names.entries()) {
    const first = names.indexOf(name)
    if (first !== at)
      throw new FlotillaError('BAD_CONFIG', `${paths[at]} and ${paths[first]} are both called ${name} in external.desc`)
  }
}

/** The base layers of SkiffOS set them to placeholders, which is no slip. */
function wiringWarnings(
  symbols: ReadonlyMap<string, MergedSymbol>,
  base: readonly Layer[],
  hasPermissions: boolean,
): readonly string[] {
  return WIRING.flatMap((symbol) => {
    if (symbol === 'BR2_ROOTFS_DEVICE_TABLE' && !hasPermissions) return []
    const setting = symbols.get(symbol)?.setting
    return setting === undefined || base.some(({ path }) => setting.file.startsWith(`${path}/`))
      ? []
      : [`${setting.file}:${setting.line}: ${symbol} is set by the builder; this line does nothing`]
  })
}

function cflagsWarning(symbols: ReadonlyMap<string, MergedSymbol>, files: readonly string[]): readonly string[] {
  const setting = symbols.get('BR2_TARGET_OPTIMIZATION')?.setting
  if (setting === undefined || files.length === 0) return []
  return [`${setting.file}:${setting.line}: BR2_TARGET_OPTIMIZATION is overridden by the cflags in ${files.join(', ')}`]
}

/** Hash of every path, mode and content under the layers: an edited fragment always takes effect. */
function hashTrees(layers: readonly Layer[]): string {
  const hash = createHash('sha256')
  const add = (path: string, name: string) => {
    const stat = lstatSync(path)
    hash.update(`${name}\0${stat.mode.toString(8)}\0`)
    if (stat.isSymbolicLink()) hash.update(readlinkSync(path))
    else if (stat.isFile()) hash.update(createHash('sha256').update(readFileSync(path)).digest())
    else if (stat.isDirectory())
      for (const entry of readdirSync(path).sort()) add(join(path, entry), `${name}/${entry}`)
  }
  for (const { path, name } of layers) {
    // A layer, and a directory of one, may be a link: what counts is what it leads to. Links inside overlays are content.
    const home = realpathSync(path)
    for (const entry of readdirSync(home).sort()) add(realpathSync(join(home, entry)), `${name}/${entry}`)
  }
  return hash.digest('hex')
}
