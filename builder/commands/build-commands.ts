import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import { FlotillaError } from '../../protocol/errors.ts'
import { type Configured, configureWorkspace } from '../buildroot/configure.ts'
import { findBuildroot } from '../buildroot/find-buildroot.ts'
import { isError } from '../buildroot/strict-check.ts'
import { Workspace } from '../buildroot/workspace.ts'
import { composeLayers } from '../layers/compose-layers.ts'
import { openChain, workspaceName } from '../layers/open-chain.ts'
import { layerCommand, surroundings, type WhereOptions } from './layers-commands.ts'

/** `flotilla configure`: merge the layers, let Kconfig resolve them, and check that nothing was lost. */
export function configureCommand(): Command {
  return layerCommand(
    'configure',
    'merge the layers into a Buildroot configuration and check that every setting took effect',
  )
    .addHelpText(
      'after',
      `
Buildroot is taken from BUILDROOT_DIR, else from a cached checkout, else cloned.
A setting that was lost is an error; a layer that knows may waive it in metadata/waivers ("SYMBOL reason").

Examples:
  SKIFF_CONFIG=pi/4,skiff/core flotilla configure
  flotilla configure --config pi/4 --workspace field --json`,
    )
    .action(async (options: WhereOptions) => {
      const { findings, errors, name, version } = await configure(options)
      if (options.json === true) process.stdout.write(`${JSON.stringify({ errors, findings }, null, 2)}\n`)
      else report(findings)
      if (errors > 0)
        throw new FlotillaError(
          'BAD_CONFIG',
          `configure ${name}: ${errors} settings were lost on Buildroot ${version}; correct them, or waive them in metadata/waivers`,
        )
      process.stderr.write(`workspace ${name} is configured for Buildroot ${version}\n`)
    })
}

async function configure(options: WhereOptions): Promise<Configured & { name: string; version: string }> {
  const where = surroundings(options)
  const name = workspaceName(options.workspace)
  const config = options.config ?? ''
  const composition = composeLayers(openChain(where, config, name))
  for (const warning of composition.warnings) process.stderr.write(`warning: ${warning}\n`)
  const root = resolve(options.root)
  const workspace = new Workspace(root, name, process.env)
  const unlock = workspace.lock()
  try {
    const buildroot = findBuildroot(process.env, join(root, '.cache'), (line) => process.stderr.write(`${line}\n`))
    if (!buildroot.pinned)
      process.stderr.write(`note: Buildroot ${buildroot.version} is not the one that the layers are made for\n`)
    const variables = {
      SKIFF_ROOT_DIR: where.skiffos ?? root,
      SKIFF_WORKSPACE: name,
      SKIFF_CONFIG: composition.layers.map((layer) => layer.name).join(','),
      BUILDROOT_DIR: buildroot.path,
    }
    const configured = await configureWorkspace(composition, buildroot, workspace, variables)
    if (configured.errors === 0) workspace.save({ config, sha256: composition.sha256, buildroot: buildroot.version })
    return { ...configured, name, version: buildroot.version }
  } finally {
    unlock()
  }
}

function report(findings: Configured['findings']): void {
  for (const finding of findings) {
    const { setting, verdict, why, waived } = finding
    const weight =
      waived !== undefined ? 'waived' : isError(finding) ? 'error' : verdict === 'selected' ? 'warning' : 'note'
    const reason = waived === undefined ? why : `${why}; waived: ${waived}`
    process.stdout.write(
      `${weight}: ${setting.file}:${setting.line}: ${setting.symbol}=${setting.value} ${verdict}: ${reason}\n`,
    )
  }
}
