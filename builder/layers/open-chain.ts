import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { FlotillaError } from '../../protocol/errors.ts'
import type { Chain } from './compose-layers.ts'
import { LayerCatalogue, layerRoots } from './find-layers.ts'
import { type Layer, parseLayerList, readLayer } from './layer.ts'
import { resolveLayers } from './resolve-layers.ts'

/** Where a person works: the project, or a SkiffOS checkout in its place. */
export type Surroundings = {
  /** Holds `configs/`, `overrides/`, `workspaces/`. */
  readonly root: string
  /** A SkiffOS checkout: its layers, base and overrides are used instead. */
  readonly skiffos: string | undefined
  readonly environment: Readonly<Record<string, string | undefined>>
}

/** The catalogue of all layers that can be used from here. @throws FlotillaError NOT_FOUND, BAD_CONFIG */
export function openCatalogue({ root, skiffos, environment }: Surroundings): LayerCatalogue {
  if (skiffos !== undefined && !existsSync(join(skiffos, 'configs')))
    throw new FlotillaError('NOT_FOUND', `use SkiffOS from ${skiffos}: there is no configs directory in it`)
  return new LayerCatalogue({ roots: layerRoots(environment, [join(skiffos ?? root, 'configs')]), environment })
}

/**
 * The chain of a workspace: base, the layers of `config` with their dependencies, overrides, base.
 * @param config - names as in SKIFF_CONFIG
 * @throws FlotillaError USAGE without a config; NOT_FOUND, BAD_CONFIG
 */
export function openChain(surroundings: Surroundings, config: string, workspace: string): Chain {
  const { root, skiffos } = surroundings
  const names = parseLayerList(config, 'SKIFF_CONFIG')
  if (names.length === 0)
    throw new FlotillaError('USAGE', 'no layers are chosen; set SKIFF_CONFIG, such as SKIFF_CONFIG=pi/4,skiff/core')
  const catalogue = openCatalogue(surroundings)
  const home = skiffos ?? root
  const base = skiffos === undefined ? join(root, 'configs/base') : join(skiffos, 'configs-base')
  return {
    lenient: skiffos !== undefined,
    base: { pre: fixedLayer('(base)/pre', join(base, 'pre')), post: fixedLayer('(base)/post', join(base, 'post')) },
    requested: resolveLayers(names, (name, wantedBy) => catalogue.get(name, wantedBy)),
    overrides: [
      ...fixedLayer('(overrides)/all', join(home, 'overrides')),
      ...fixedLayer(`(overrides)/${workspace}`, join(home, 'overrides/workspaces', workspace)),
    ],
  }
}

/** A layer that is always there, if it is; what it depends on plays no part. */
function fixedLayer(name: string, path: string): readonly Layer[] {
  if (!existsSync(path)) return []
  const layer = readLayer(name, resolve(path))
  return [{ ...layer, metadata: { ...layer.metadata, dependencies: [] } }]
}

/** `SKIFF_WORKSPACE` as SkiffOS cleans it: lower case, letters, digits and `._-`. */
export function workspaceName(text: string | undefined): string {
  const name = (text ?? '').toLowerCase().replaceAll(/[^a-z0-9._-]/g, '')
  return name === '' ? 'default' : name
}
