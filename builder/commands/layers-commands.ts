import { join, resolve } from 'node:path'
import { Command, Option } from 'commander'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { printRows } from '../../protocol/terminal/print.ts'
import { readBoard } from '../layers/board.ts'
import { describeProof, readProofs } from '../layers/board-proof.ts'
import { type Composition, composeLayers } from '../layers/compose-layers.ts'
import { explainSymbol } from '../layers/explain-symbol.ts'
import type { FoundLayer, LayerCatalogue } from '../layers/find-layers.ts'
import { FRAGMENT_KINDS } from '../layers/kconfig-fragment.ts'
import type { Layer } from '../layers/layer.ts'
import { openCatalogue, openChain, type Surroundings, workspaceName } from '../layers/open-chain.ts'

export type WhereOptions = { root: string; skiffos?: string; workspace?: string; config?: string; json?: boolean }

/** Options of every command that works on layers; the names of the variables are SkiffOS's. */
export function layerCommand(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .addOption(new Option('--config <layers>', 'layers, such as pi/4,skiff/core').env('SKIFF_CONFIG'))
    .addOption(new Option('--workspace <name>', 'the build directory that it is for').env('SKIFF_WORKSPACE'))
    .addOption(
      new Option('--skiffos <dir>', 'a SkiffOS checkout whose layers, base and overrides are used').env('SKIFFOS_DIR'),
    )
    .addOption(new Option('--root <dir>', 'where configs/ and overrides/ are').env('FLOTILLA_ROOT').default('.'))
    .option('--json', 'machine-readable output')
}

/** `flotilla layers`: what there is, what a choice of layers amounts to, and where a setting came from. */
export function layersCommand(): Command {
  return new Command('layers')
    .description('configuration layers: list, show, order, and explain where a setting came from')
    .addCommand(listCommand())
    .addCommand(showCommand())
    .addCommand(resolveCommand())
    .addCommand(explainCommand())
    .addHelpText(
      'after',
      '\nExamples:\n  flotilla layers list\n  SKIFF_CONFIG=pi/4,skiff/core flotilla layers resolve\n  flotilla layers explain BR2_TARGET_ROOTFS_SQUASHFS --config virt/qemu',
    )
}

/** Where a command works, from its options. */
export function surroundings({ root, skiffos }: WhereOptions): Surroundings {
  return {
    root: resolve(root),
    skiffos: skiffos === undefined ? undefined : resolve(skiffos),
    environment: process.env,
  }
}

function compose(options: WhereOptions): Composition {
  const composition = composeLayers(
    openChain(surroundings(options), options.config ?? '', workspaceName(options.workspace)),
  )
  for (const warning of composition.warnings) process.stderr.write(`warning: ${warning}\n`)
  return composition
}

/** `flotilla boards`: every board layer with what it declares and how far it is proven. */
export function boardsCommand(): Command {
  return layerCommand('boards', 'the boards that images can be made for, and how far each is proven').action(
    (options: WhereOptions) => {
      const where = surroundings(options)
      const catalogue = openCatalogue(where)
      const proofs = readProofs(join(where.root, 'configs/proof.json'))
      const rows = readable(catalogue, catalogue.list()).flatMap((layer) => {
        const { name } = layer
        const board = readBoard(layer)
        return board === undefined ? [] : [{ ...board, proof: describeProof(proofs, name) }]
      })
      printRows(
        rows,
        [
          ['BOARD', (row) => row.name],
          ['ARCH', (row) => row.arch],
          ['BOOT', (row) => row.family],
          ['KERNEL', (row) => row.kernel],
          ['BOOTLOADER', (row) => row.bootloader],
          ['BLOBS', (row) => row.blobs],
          ['PROVEN', (row) => row.proof],
        ],
        options,
      )
    },
  )
}

function listCommand(): Command {
  return layerCommand('list', 'all layers that can be used from here')
    .option('--all', 'also those that are only meant for other layers')
    .action((options: WhereOptions & { all?: boolean }) => {
      const catalogue = openCatalogue(surroundings(options))
      const rows = readable(catalogue, catalogue.list())
        .filter(({ metadata }) => options.all === true || !metadata.unlisted)
        .map(({ name, path, metadata, shadows }) => ({ name, path, ...metadata, shadows }))
      printRows(
        rows,
        [
          ['LAYER', (row) => row.name],
          ['DESCRIPTION', (row) => row.description],
          ['NEEDS', (row) => row.dependencies.join(' ')],
        ],
        options,
      )
    })
}

/** The layers that can be read; of the others it is said why not, and a list is a list all the same. */
function readable(
  catalogue: LayerCatalogue,
  found: readonly FoundLayer[],
): readonly (Layer & Pick<FoundLayer, 'shadows'>)[] {
  for (const problem of catalogue.problems) process.stderr.write(`warning: ${problem}\n`)
  return found.flatMap(({ name, shadows }) => {
    try {
      return [{ ...catalogue.get(name, 'list layers'), shadows }]
    } catch (error) {
      process.stderr.write(`warning: ${messageOf(error)}\n`)
      return []
    }
  })
}

function showCommand(): Command {
  return layerCommand('show', 'one layer: where it is, what it needs, what it brings')
    .argument('<layer>')
    .action((name: string, options: WhereOptions) => {
      const layer = openCatalogue(surroundings(options)).get(name, 'layers show')
      const { metadata, path } = layer
      const alone = composeLayers({ base: { pre: [], post: [] }, requested: [layer], overrides: [], lenient: true })
      const settings = Object.fromEntries(FRAGMENT_KINDS.map((kind) => [kind, alone.symbols[kind].size]))
      const summary = { name, path, ...metadata, settings, overlays: alone.overlays, externals: alone.externals }
      if (options.json === true) {
        process.stdout.write(`${JSON.stringify(summary, null, 2)}\n`)
        return
      }
      const counted = FRAGMENT_KINDS.filter((kind) => alone.symbols[kind].size > 0)
      const lines = [
        ['layer', name],
        ['about', metadata.description],
        ['at', path],
        ['needs', metadata.dependencies.join(' ') || 'nothing'],
        ['settings', counted.map((kind) => `${alone.symbols[kind].size} ${kind}`).join(', ') || 'none'],
        ['overlay', alone.overlays.join(' ')],
        ['packages', alone.externals.join(' ')],
        ...metadata.commands.map(({ target, description }) => ['command', `cmd ${name} ${target}: ${description}`]),
      ]
      for (const [key = '', value = ''] of lines) if (value !== '') process.stdout.write(`${key.padEnd(9)} ${value}\n`)
    })
}

function resolveCommand(): Command {
  return layerCommand('resolve', 'the layers of a choice in the order in which they count').action(
    (options: WhereOptions) => {
      const { layers, sha256 } = compose(options)
      if (options.json === true) {
        const names = layers.map(({ name, path }) => ({ name, path }))
        process.stdout.write(`${JSON.stringify({ layers: names, sha256 }, null, 2)}\n`)
      } else for (const { name, path } of layers) process.stdout.write(`${name.padEnd(24)} ${path}\n`)
    },
  )
}

function explainCommand(): Command {
  return layerCommand('explain', 'which file and line set a symbol, and what it overrode')
    .argument('<symbol>', 'such as BR2_TARGET_ROOTFS_SQUASHFS or CONFIG_SQUASHFS')
    .action((symbol: string, options: WhereOptions) => {
      const found = explainSymbol(compose(options), symbol)
      if (found.length === 0) throw new FlotillaError('NOT_FOUND', `explain ${symbol}: no layer of this choice sets it`)
      printRows(
        found,
        [
          ['', (row) => (row.holds ? 'holds' : 'overridden')],
          ['IN', (row) => row.kind],
          ['VALUE', (row) => row.value],
          ['LAYER', (row) => row.layer],
          ['LINE', (row) => `${row.file}:${row.line}`],
        ],
        options,
      )
    })
}
