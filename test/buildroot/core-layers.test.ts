import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { describe, expect, it } from 'vitest'
import { composeLayers } from '../../builder/layers/compose-layers.ts'
import { openCatalogue, openChain } from '../../builder/layers/open-chain.ts'
import { parseSkiffCore } from '../../protocol/core/skiff-core.ts'

const where = { root: resolve(import.meta.dirname, '../..'), skiffos: undefined, environment: {} }
const layers = openCatalogue(where)
  .list()
  .map(({ name }) => name)
  .filter((name) => name.startsWith('core/') || name === 'skiff/core')
/** SkiffOS's and those of the table in its paper. */
const WANTED = [
  ...[
    'alpine',
    'debian',
    'gentoo',
    'gentoo-kde',
    'gentoo-lto',
    'gentoo-lto-exwm',
    'manjaro',
    'nasa-cfs',
    'nasa-fprime',
  ],
  ...['nixos', 'pinephone-manjaro-kde', 'pinephone-neon', 'ubuntu'],
].map((name) => `core/${name}`)

describe('the core layers', () => {
  it('are all there', () => {
    expect(layers).toEqual([...WANTED, 'skiff/core'])
  })

  it.each(layers)('bring containers that are read without a warning, with a recipe for every image: %s', (name) => {
    const composition = composeLayers(openChain(where, `pi/4,${name}`, 'default'))
    expect(composition.warnings).toEqual([])
    const layer = composition.layers.find((one) => one.name === name)?.path ?? ''
    expect(composition.core).toBe(join(layer, 'resources/skiff-core.yaml'))
    const { core, warnings } = parseSkiffCore(readFileSync(composition.core ?? '', 'utf8'), name)
    expect(warnings).toEqual([])
    expect([...core.users.keys()]).toContain('core')
    for (const { image, mounts } of core.containers.values()) {
      const { build, pullPolicy } = core.images.get(image) ?? {}
      // What is run is what the recipe says, not what a registry has under that name.
      expect([pullPolicy, image]).toEqual(['never', expect.stringMatching(/^flotilla\/core-[a-z-]+:latest$/)])
      const source = build?.source ?? ''
      const recipe = composition.overlays
        .map((path) => join(path, source, 'Dockerfile'))
        .find((path) => existsSync(path))
      expect(recipe, `${image} is built from ${source}`).toBeDefined()
      expect(readFileSync(recipe ?? '', 'utf8')).toMatch(/^ARG BASE=\S+\nFROM \$\{BASE\}/)
      // What people make outlives the container.
      expect(mounts.some((mount) => mount.endsWith(':/home'))).toBe(true)
    }
  })
})
