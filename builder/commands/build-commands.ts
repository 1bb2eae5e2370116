import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from 'commander'
import { FlotillaError } from '../../protocol/errors.ts'
import { formatAge, LiveView } from '../../protocol/terminal/print.ts'
import type { BuildStep } from '../buildroot/build-progress.ts'
import { compileWorkspace } from '../buildroot/compile.ts'
import { checkFragments, configureTargets, readBuiltConfig } from '../buildroot/built-programs.ts'
import { readWaivers } from '../buildroot/configure.ts'
import { configDelta, menuOf } from '../buildroot/menuconfig-delta.ts'
import { offline, runInherited, runMakeOnTerminal } from '../buildroot/run-make.ts'
import { isError } from '../buildroot/strict-check.ts'
import { COMMAND_LINE_ARTIFACT, startsKernel } from '../../protocol/boot/slot-files.ts'
import { bootTogether } from '../images/collect-images.ts'
import { MANIFEST, manifestFor, writeManifest } from '../images/image-manifest.ts'
import { readBoard } from '../layers/board.ts'
import { formatSettings, mergeSettings, parseFragment } from '../layers/kconfig-fragment.ts'
import { pathVariable } from '../layers/layer.ts'
import { openCatalogue, type Surroundings } from '../layers/open-chain.ts'
import { layerCommand, surroundings, type WhereOptions } from './layers-commands.ts'
import {
  configure,
  configureIfStale,
  localPackages,
  inWorkspace,
  type Prepared,
  refuseLost,
  reportFindings,
  requireAgent,
} from './prepared-workspace.ts'

/** `flotilla configure`: merge the layers, let Kconfig resolve them, and check that nothing was lost. */
export function configureCommand(): Command {
  return layerCommand(
    'configure',
    'merge the layers into a Buildroot configuration and check that every Buildroot setting took effect',
  )
    .addHelpText(
      'after',
      `
Kernel, BusyBox and U-Boot fragments are checked by compile, before it builds anything of them.
Buildroot is taken from BUILDROOT_DIR, else from a cached checkout, else cloned.
A setting that was lost is an error; a layer that knows may waive it in metadata/waivers ("SYMBOL reason").

Examples:
  SKIFF_CONFIG=pi/4,skiff/core flotilla configure
  flotilla configure --config pi/4 --workspace field --json`,
    )
    .action((options: WhereOptions) =>
      inWorkspace(options, async (prepared) => {
        const configured = await configure(prepared)
        if (options.json === true) process.stdout.write(`${JSON.stringify(configured, null, 2)}\n`)
        else reportFindings(configured.findings)
        refuseLost(prepared, configured)
        const { workspace, buildroot } = prepared
        process.stderr.write(`workspace ${workspace.name} is configured for Buildroot ${buildroot.version}\n`)
      }),
    )
}

/** `flotilla compile`: the images of a choice of layers. */
export function compileCommand(): Command {
  return layerCommand('compile', 'build the images; goes on where an earlier build was interrupted')
    .option('--offline', 'fetch nothing: stop at the first source that is not in the directory of downloads')
    .addHelpText(
      'after',
      `
Sources are kept in workspaces/.downloads/<workspace>, or where BR2_DL_DIR says. Before going where there is no network:
  flotilla br source

Examples:
  SKIFF_CONFIG=virt/qemu flotilla compile
  SKIFF_CONFIG=virt/qemu flotilla compile --offline`,
    )
    .action(async (options: WhereOptions & { offline?: boolean }) => {
      const stop = new AbortController()
      process.once('SIGINT', () => stop.abort(new Error('interrupted')))
      await inWorkspace(options, async (prepared) => {
        requireAgent(prepared)
        await configureIfStale(prepared)
        const { composition, workspace } = prepared
        const place = options.offline === true ? offline(prepared.place) : prepared.place
        const startedMs = performance.now()
        const view = new LiveView()
        const onStep = ({ package: name, step, begun, total }: BuildStep) => {
          const of = total > begun ? `${begun} of ${total}` : String(begun)
          view.draw([`package ${of}  ${name}: ${step}  (${formatAge((performance.now() - startedMs) / 1_000)})`])
        }
        // Packages of ours are copies of what may be newer than the last build: made anew, they take a second.
        const targets = [...localPackages(prepared).map((name) => `${name}-dirclean`), composition.buildTarget ?? 'all']
        const config = readFileSync(join(workspace.output, '.config'), 'utf8')
        const stages = [
          { targets: configureTargets(composition, config), check: () => refuseLostFragments(prepared) },
          { targets },
        ]
        // Made anew by every build that has them: one that is left over from another choice of layers would go into a release.
        for (const name of ['rootfs.squashfs', 'modules.squashfs', MANIFEST])
          rmSync(join(workspace.output, 'images', name), { force: true })
        await compileWorkspace(place, workspace, stages, onStep, stop.signal)
        noteImages(prepared)
        process.stderr.write(`built in ${formatAge((performance.now() - startedMs) / 1_000)}\n`)
        process.stdout.write(`${join(workspace.output, 'images')}\n`)
      })
    })
}

/** Leaves beside the images what `release create` and `image make` want to know of them. */
function noteImages({ composition, workspace, buildroot, config }: Prepared): void {
  const directory = join(workspace.output, 'images')
  const boards = composition.layers.flatMap((layer) => readBoard(layer) ?? [])
  const board = boards.at(-1)
  if (board === undefined || !existsSync(directory)) return // a SkiffOS layer, or only a part was built
  if (boards.length > 1)
    process.stderr.write(
      `note: ${boards.map(({ name }) => name).join(' and ')} are boards; the images are for ${board.name}\n`,
    )
  if (composition.core === undefined) rmSync(join(directory, 'skiff-core.yaml'), { force: true })
  else copyFileSync(composition.core, join(directory, 'skiff-core.yaml'))
  if (startsKernel(board.family)) writeFileSync(join(directory, COMMAND_LINE_ARTIFACT), `${board.commandLine}\n`)
  const files = bootTogether(directory)
  writeManifest(directory, manifestFor(board, { layers: config, buildroot: buildroot.version, files }))
}

/** @throws FlotillaError BAD_CONFIG when a program was configured without a setting of its fragments */
async function refuseLostFragments({ composition, place, workspace }: Prepared): Promise<void> {
  const configs = {
    kernel: await readBuiltConfig('kernel', place),
    busybox: await readBuiltConfig('busybox', place),
    uboot: await readBuiltConfig('uboot', place),
  }
  const waivers = readWaivers(composition)
  const findings = checkFragments(composition, configs).map((finding) => ({
    ...finding,
    waived: waivers.get(finding.setting.symbol),
  }))
  reportFindings(findings)
  const lost = findings.filter((finding) => isError(finding) && finding.waived === undefined).length
  if (lost > 0)
    throw new FlotillaError(
      'BAD_CONFIG',
      `compile ${workspace.name}: ${lost} settings of kernel, BusyBox or U-Boot were lost; correct them, or waive them in metadata/waivers`,
    )
}

/** `flotilla br TARGET`: any target of Buildroot, with the terminal; what a menu changed is kept as an override. */
export function brCommand(): Command {
  return layerCommand(
    'br',
    "run a target of Buildroot's Makefile in the workspace: menuconfig, source, legal-info, sdk …",
  )
    .argument('<target>')
    .addHelpText(
      'after',
      '\nAfter menuconfig, linux-menuconfig, busybox-menuconfig and uboot-menuconfig the difference goes to\noverrides/workspaces/<workspace>/.\n\nExamples:\n  flotilla br menuconfig --config virt/qemu\n  flotilla br source',
    )
    .action(async (target: string, options: WhereOptions) => {
      const code = await inWorkspace(options, async (prepared) => {
        await configureIfStale(prepared)
        return runTarget(prepared, target, surroundings(options))
      })
      if (code !== 0) throw new FlotillaError('BUILD_FAILED', `br ${target}: make ended with ${code}`)
    })
}

/** `flotilla cmd LAYER TARGET`: a command that a layer brings, such as one that writes an image to a card. */
export function cmdCommand(): Command {
  return layerCommand('cmd', "run a target of a layer's extensions/Makefile with the workspace's variables")
    .argument('<layer>', 'it need not be among the chosen ones')
    .argument('<target>')
    .addHelpText('after', '\nExample:\n  PI_SD=/dev/sdX flotilla cmd pi/common format --config pi/4')
    .action(async (name: string, target: string, options: WhereOptions) => {
      const layer = openCatalogue(surroundings(options)).get(name, 'cmd')
      const directory = join(layer.path, 'extensions')
      if (!existsSync(join(directory, 'Makefile')))
        throw new FlotillaError('NOT_FOUND', `cmd ${name} ${target}: ${directory} has no Makefile`)
      const code = await inWorkspace(options, ({ variables }) =>
        runInherited('make', ['-C', directory, target], {
          ...process.env,
          ...variables,
          SKIFF_CURRENT_CONF_DIR: layer.path,
          SKIFF_CURRENT_CONF_NAME: name,
          SKIFF_CURRENT_CONF_NAME_FULL: pathVariable(name),
        }),
      )
      if (code !== 0) throw new FlotillaError('BUILD_FAILED', `cmd ${name} ${target}: make ended with ${code}`)
    })
}

async function runTarget({ place, workspace }: Prepared, target: string, where: Surroundings): Promise<number> {
  const kind = menuOf(target)
  if (kind === undefined) return runMakeOnTerminal(place, [target])
  // Without a configuration to compare with, everything in it would count as changed by hand.
  const program = /^(\w+)-/.exec(target)?.[1]
  if (program !== undefined && (await readBuiltConfig(kind, place)) === undefined) {
    const code = await runMakeOnTerminal(place, [`${program}-configure`])
    if (code !== 0) return code
  }
  const before = await readBuiltConfig(kind, place)
  const code = await runMakeOnTerminal(place, [target])
  const after = await readBuiltConfig(kind, place)
  if (code !== 0) return code
  if (before === undefined || after === undefined)
    throw new FlotillaError(
      'NOT_FOUND',
      `br ${target}: the configuration is not where Buildroot says; the changes are not kept as an override`,
    )
  const delta = configDelta(before, after)
  if (delta.length === 0) return code
  const directory = join(where.skiffos ?? where.root, 'overrides/workspaces', workspace.name, kind)
  const file = join(directory, 'zz-menuconfig')
  mkdirSync(directory, { recursive: true })
  const earlier = existsSync(file) ? parseFragment(kind, readFileSync(file, 'utf8'), file) : []
  const later = delta.map((setting) => ({ ...setting, file, line: 0 }))
  writeFileSync(file, formatSettings([...mergeSettings([...earlier, ...later]).values()].map(({ setting }) => setting)))
  process.stderr.write(`${delta.length} settings are kept in ${file}\n`)
  return code
}
