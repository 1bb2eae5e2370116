import { FlotillaError } from '../../protocol/errors.ts'
import type { Layer } from './layer.ts'

/** Finds a layer by name. @throws FlotillaError NOT_FOUND */
export type LayerLookup = (name: string, wantedBy: string) => Layer

/**
 * Orders layers so that each comes after everything it depends on; else as the user listed them. Pure but for the lookup.
 * A dependency that was listed later is moved before its dependant: SkiffOS leaves it where it stands, and the common layer
 * then overrides the board's.
 * @throws FlotillaError NOT_FOUND, BAD_CONFIG for a cycle, naming the files that make it
 */
export function resolveLayers(requested: readonly string[], lookup: LayerLookup): readonly Layer[] {
  const resolved = new Map<string, Layer>()
  const trail: Layer[] = []
  const visit = (name: string, wantedBy: string): void => {
    if (resolved.has(name)) return
    const from = trail.findIndex((layer) => layer.name === name)
    if (from >= 0) throw cycle(trail.slice(from), name)
    const layer = lookup(name, wantedBy)
    trail.push(layer)
    for (const dependency of layer.metadata.dependencies) visit(dependency, dependencyFile(layer))
    trail.pop()
    resolved.set(name, layer)
  }
  for (const name of requested) visit(name, 'SKIFF_CONFIG')
  return [...resolved.values()]
}

function cycle(trail: readonly Layer[], name: string): FlotillaError {
  const names = [...trail.map((layer) => layer.name), name].join(' → ')
  const files = trail.map(dependencyFile).join(', ')
  return new FlotillaError('BAD_CONFIG', `layers depend on each other: ${names}; break the circle in one of ${files}`)
}

function dependencyFile(layer: Layer): string {
  return `${layer.path}/metadata/dependencies`
}
