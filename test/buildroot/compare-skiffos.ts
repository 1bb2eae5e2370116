import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { composeLayers } from '../../builder/layers/compose-layers.ts'
import { openCatalogue, openChain } from '../../builder/layers/open-chain.ts'
import { messageOf } from '../../protocol/errors.ts'

/**
 * `npm run test:skiffos`: composes every layer of the SkiffOS checkout in SKIFFOS_DIR, alone and with skiff/core, and compares
 * the merged Buildroot settings symbol by symbol with what SkiffOS's own rules give, which are written here again in their
 * simplest form (facts/skiffos.md 1.3, 1.4). Differences are only those that are listed as better.
 */
const skiffos = process.env['SKIFFOS_DIR'] ?? ''
if (!existsSync(join(skiffos, 'configs'))) {
  process.stderr.write('test:skiffos: set SKIFFOS_DIR to a SkiffOS checkout\n')
  process.exit(2)
}
const root = resolve(skiffos)
const where = { root, skiffos: root, environment: {} }
const total = { passed: 0, failed: 0, symbols: 0, reordered: 0 }
for (const { name } of openCatalogue(where).list()) {
  for (const config of name === 'skiff/core' ? [name] : [name, `${name},skiff/core`, `skiff/core,${name}`])
    compare(config)
}
process.stdout.write(`${total.symbols} settings compared; ${total.reordered} choices ordered better than by SkiffOS\n`)
process.stdout.write(`${total.passed} passed, ${total.failed} failed, 0 skipped\n`)
process.exitCode = total.failed === 0 ? 0 : 1

function compare(config: string): void {
  const order = skiffosOrder(config.split(','))
  try {
    const ours = composeLayers(openChain(where, config, 'default'))
    const names = ours.layers.map((layer) => layer.name).filter((layer) => !layer.startsWith('('))
    if (names.join() !== order.join()) {
      // Better, when SkiffOS puts a layer before one that it needs.
      if (isSound(order)) return fail(config, `order ${names.join()}, SkiffOS has ${order.join()}`)
      total.reordered += 1
      total.passed += 1
      return
    }
    const theirs = skiffosSettings(order)
    const found = new Map([...ours.symbols.buildroot].map(([symbol, { setting }]) => [symbol, setting.value]))
    const wrong = [...new Set([...theirs.keys(), ...found.keys()])].filter(
      (symbol) => theirs.get(symbol) !== found.get(symbol),
    )
    total.symbols += found.size
    if (wrong.length === 0) total.passed += 1
    else
      fail(
        config,
        wrong.map((symbol) => `${symbol}: ${found.get(symbol)}, SkiffOS has ${theirs.get(symbol)}`).join('; '),
      )
  } catch (error) {
    fail(config, messageOf(error))
  }
}

function fail(config: string, why: string): void {
  total.failed += 1
  process.stdout.write(`FAILED ${config}: ${why}\n`)
}

/** Left to right; a dependency that is nowhere in the list goes directly before its dependant, and all begins again. */
function skiffosOrder(requested: readonly string[]): readonly string[] {
  let list = [...new Set(requested)]
  for (let changed = true; changed; ) {
    changed = false
    for (const name of list) {
      const missing = dependenciesOf(name).find((dependency) => !list.includes(dependency))
      if (missing === undefined) continue
      const at = list.indexOf(name)
      list = [...list.slice(0, at), missing, ...list.slice(at)]
      changed = true
      break
    }
  }
  return list
}

function dependenciesOf(name: string): readonly string[] {
  const file = join(root, 'configs', name, 'metadata/dependencies')
  return existsSync(file)
    ? readFileSync(file, 'utf8')
        .split(/[\s,]+/)
        .filter((part) => part !== '')
    : []
}

function isSound(order: readonly string[]): boolean {
  return order.every((name, at) => dependenciesOf(name).every((dependency) => order.indexOf(dependency) < at))
}

/** Base, layers, overrides, base, one behind the other; what Kconfig reads last holds. */
function skiffosSettings(order: readonly string[]): ReadonlyMap<string, string> {
  const layers = ['configs-base/pre', ...order.map((name) => `configs/${name}`), 'overrides', 'configs-base/post']
  const settings = new Map<string, string>()
  for (const layer of layers) {
    const directory = join(root, layer, 'buildroot')
    if (!existsSync(directory)) continue
    for (const file of readdirSync(directory).sort()) {
      if (file.startsWith('.') || !statSync(join(directory, file)).isFile()) continue
      for (const line of readFileSync(join(directory, file), 'utf8')
        .replaceAll('SKIFF_CONFIG_ROOT', join(root, layer))
        .split('\n')) {
        const unset = /^# (BR2_\w+) is not set/.exec(line.trim())?.[1]
        const [, symbol, value] = /^(BR2_\w+)=(.*)$/.exec(line.trim()) ?? []
        if (unset !== undefined) settings.set(unset, 'n')
        else if (symbol !== undefined && value !== undefined) settings.set(symbol, value)
      }
    }
  }
  return settings
}
