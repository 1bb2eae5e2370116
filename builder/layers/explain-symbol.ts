import type { Composition } from './compose-layers.ts'
import { FRAGMENT_KINDS, type FragmentKind, type Setting } from './kconfig-fragment.ts'

/** A line of a layer that sets a symbol. `holds`: no later one overrides it. */
export type Explanation = Setting & {
  readonly kind: FragmentKind
  readonly layer: string
  readonly holds: boolean
}

/** Every line that sets a symbol, in whichever program, the one that holds first. Pure. */
export function explainSymbol({ symbols, layers }: Composition, symbol: string): readonly Explanation[] {
  return FRAGMENT_KINDS.flatMap((kind) => {
    const merged = symbols[kind].get(symbol)
    if (merged === undefined) return []
    return [merged.setting, ...merged.overrode].map((setting, at) => ({
      ...setting,
      kind,
      layer: layerOf(layers, setting.file),
      holds: at === 0,
    }))
  })
}

/** The layer that a file belongs to: overrides lie inside each other, so the longest path counts. */
function layerOf(layers: Composition['layers'], file: string): string {
  const owners = layers.filter(({ path }) => file.startsWith(`${path}/`))
  return owners.sort((a, b) => b.path.length - a.path.length)[0]?.name ?? ''
}
