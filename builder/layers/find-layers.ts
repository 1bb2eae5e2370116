import { existsSync, readdirSync, statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { type Layer, pathVariable, readLayer, requireLayerName } from './layer.ts'

/** Where layers are looked for. */
export type LayerSources = {
  /** Directories of `<namespace>/<name>`, the first that has a layer wins. */
  readonly roots: readonly string[]
  /** `SKIFF_CONFIG_PATH_<NS>_<NAME>` variables set by the user: they win over every root. */
  readonly environment: Readonly<Record<string, string | undefined>>
}

/** A layer that can be used. `shadows`: directories of the same name that are not. */
export type FoundLayer = { readonly name: string; readonly path: string; readonly shadows: readonly string[] }

/**
 * The layers that are there. Read when asked for, since one malformed layer must not break those that are not used.
 * Precedence as SkiffOS has it: variable, extra paths from left to right, built-in.
 */
export class LayerCatalogue {
  /** What is odd about layers that are found here; it stops only those who ask for them. */
  readonly problems: string[] = []
  readonly #found = new Map<string, FoundLayer>()
  readonly #doubtful = new Map<string, FlotillaError>()
  readonly #environment: LayerSources['environment']
  readonly #read = new Map<string, Layer>()

  /** @throws FlotillaError NOT_FOUND for a root that is not there */
  constructor({ roots, environment }: LayerSources) {
    this.#environment = environment
    const variables = new Map<string, string>()
    for (const root of roots) {
      if (statSync(root, { throwIfNoEntry: false })?.isDirectory() !== true)
        throw new FlotillaError(
          'NOT_FOUND',
          `look for layers in ${root}: there is no such directory (SKIFF_EXTRA_CONFIGS_PATH)`,
        )
      for (const namespace of directoriesIn(root)) {
        for (const leaf of directoriesIn(join(root, namespace)))
          this.#add(`${namespace}/${leaf}`, resolve(root, namespace, leaf), variables)
      }
    }
  }

  #add(name: string, path: string, variables: Map<string, string>): void {
    try {
      requireLayerName(name, path)
    } catch (error) {
      this.problems.push(messageOf(error)) // nobody can ask for it by that name
      return
    }
    const known = this.#found.get(name)
    if (known !== undefined) {
      this.#found.set(name, { ...known, shadows: [...known.shadows, path] })
      return
    }
    const variable = pathVariable(name)
    const other = variables.get(variable)
    if (other !== undefined) {
      const message = `layers ${other} and ${name} (${path}) share the variable ${variable}; rename one of them`
      this.problems.push(message)
      for (const one of [other, name]) this.#doubtful.set(one, new FlotillaError('BAD_CONFIG', message))
    }
    variables.set(variable, name)
    this.#found.set(name, { name, path, shadows: [] })
  }

  /** All layers that were found, by name. */
  list(): readonly FoundLayer[] {
    return [...this.#found.values()].map((found) => this.#overridden(found)).sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  #overridden(found: FoundLayer): FoundLayer {
    const path = this.#environment[pathVariable(found.name)]
    return path === undefined || path === ''
      ? found
      : { ...found, path: resolve(path), shadows: [found.path, ...found.shadows] }
  }

  /**
   * @param wantedBy - who asks for it, for the message
   * @throws FlotillaError NOT_FOUND with the nearest names, BAD_CONFIG when its metadata is malformed or it shares its variable
   */
  get(name: string, wantedBy: string): Layer {
    const doubt = this.#doubtful.get(name)
    if (doubt !== undefined) throw doubt
    const read = this.#read.get(name)
    if (read !== undefined) return read
    const found = this.#overridden(this.#found.get(name) ?? { name, path: '', shadows: [] })
    if (found.path === '') {
      const near = nearestNames(name, [...this.#found.keys()])
      const hint =
        near.length === 0 ? '`flotilla layers list` shows what there is' : `did you mean ${near.join(' or ')}?`
      throw new FlotillaError('NOT_FOUND', `${wantedBy}: there is no layer ${name}; ${hint}`)
    }
    const layer = readLayer(name, found.path)
    this.#read.set(name, layer)
    return layer
  }
}

function directoriesIn(path: string): readonly string[] {
  // Also links to directories, which SkiffOS does not see.
  return readdirSync(path)
    .filter(
      (name) => !name.startsWith('.') && statSync(join(path, name), { throwIfNoEntry: false })?.isDirectory() === true,
    )
    .sort()
}

/** Up to three names that a person may have meant: few letters away, or the same second part. Pure. */
export function nearestNames(wanted: string, names: readonly string[]): readonly string[] {
  const leaf = wanted.split('/')[1] ?? wanted
  return names
    .map((name) => ({ name, distance: editDistance(wanted, name) - (name.split('/')[1] === leaf ? 4 : 0) }))
    .filter(({ distance }) => distance <= 3)
    .sort((a, b) => a.distance - b.distance || (a.name < b.name ? -1 : 1))
    .slice(0, 3)
    .map(({ name }) => name)
}

/** Levenshtein's distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, at) => at)
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i]
    for (let j = 1; j <= b.length; j += 1) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}

/** The roots that a user's environment names, then those that ship with the program. */
export function layerRoots(environment: LayerSources['environment'], builtIn: readonly string[]): readonly string[] {
  const extra = (environment['SKIFF_EXTRA_CONFIGS_PATH'] ?? '').split(':').filter((path) => path !== '')
  return [...extra, ...builtIn.filter((path) => existsSync(path))].map((path) => resolve(path))
}
