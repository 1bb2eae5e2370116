import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { FlotillaError } from '../../protocol/errors.ts'
import { type Configured, configureWorkspace } from '../buildroot/configure.ts'
import { type Buildroot, findBuildroot } from '../buildroot/find-buildroot.ts'
import { hookEnvironment } from '../buildroot/hook-environment.ts'
import type { BuildPlace } from '../buildroot/run-make.ts'
import { isError } from '../buildroot/strict-check.ts'
import { Workspace } from '../buildroot/workspace.ts'
import { type Composition, composeLayers } from '../layers/compose-layers.ts'
import { openChain, workspaceName } from '../layers/open-chain.ts'
import { surroundings, type WhereOptions } from './layers-commands.ts'

/** A workspace of this command, taken for it, with everything that a build in it needs. */
export type Prepared = {
  readonly composition: Composition
  readonly workspace: Workspace
  readonly buildroot: Buildroot
  readonly place: BuildPlace
  readonly config: string
  readonly variables: Readonly<Record<string, string>>
}

/** Runs `work` in the workspace that the options name, alone. @throws FlotillaError BUSY and those of layers and Buildroot */
export async function inWorkspace<T>(options: WhereOptions, work: (prepared: Prepared) => Promise<T>): Promise<T> {
  const where = surroundings(options)
  const name = workspaceName(options.workspace)
  const workspace = new Workspace(where.root, name, process.env)
  // Without a choice of layers the last one of this workspace holds, as with SkiffOS.
  const config = options.config ?? workspace.state()?.config ?? ''
  const composition = composeLayers(openChain(where, config, name))
  for (const warning of composition.warnings) process.stderr.write(`warning: ${warning}\n`)
  const unlock = workspace.lock()
  try {
    const buildroot = findBuildroot(process.env, join(where.root, '.cache'), (line) =>
      process.stderr.write(`${line}\n`),
    )
    if (!buildroot.pinned)
      process.stderr.write(`note: Buildroot ${buildroot.version} is not the one that the layers are made for\n`)
    const variables = hookEnvironment(composition, workspace, {
      home: where.skiffos ?? where.root,
      buildroot: buildroot.path,
      version: gitSays(where.skiffos ?? where.root, 'describe', '--always', '--tags', '--dirty'),
      commit: gitSays(where.skiffos ?? where.root, 'rev-parse', 'HEAD'),
    })
    const place = {
      buildroot: buildroot.path,
      output: workspace.output,
      downloads: workspace.downloads,
      externals: composition.externals,
      variables: { ...programs(where.root), ...epoch(where.skiffos ?? where.root) },
    }
    return await work({ composition, workspace, buildroot, place, config, variables })
  } finally {
    unlock()
  }
}

/** What git says of the layers, `unknown` where they are in no repository. */
function gitSays(directory: string, ...args: string[]): string {
  try {
    return execFileSync('git', ['-C', directory, ...args], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim()
  } catch {
    return 'unknown'
  }
}

/**
 * The time that files in images carry: that of the last commit of the layers. Left to itself Buildroot takes the last commit
 * of whatever repository its own source lies in.
 */
function epoch(directory: string): Readonly<Record<string, string>> {
  const seconds = process.env['SOURCE_DATE_EPOCH'] ?? gitSays(directory, 'log', '-1', '--format=%ct')
  return /^\d+$/.test(seconds) ? { SOURCE_DATE_EPOCH: seconds } : {}
}

/** Where the agent's bundle is: beside this program when that is bundled itself, else what `npm run bundle` made. */
function programs(root: string): Readonly<Record<string, string>> {
  const beside = dirname(process.argv[1] ?? '')
  const found = [beside, join(root, 'dist')].find((directory) => existsSync(join(directory, 'flotilla-agent.mjs')))
  return found === undefined ? {} : { FLOTILLA_PROGRAMS: found }
}

/** Packages whose source is this project: Buildroot does not see when it changes. */
export function localPackages({ composition }: Prepared): readonly string[] {
  const has = (symbol: string) => composition.symbols.buildroot.get(symbol)?.setting.value === 'y'
  return ['flotilla-agent', 'flotilla-init', 'flotilla-container'].filter((name) =>
    has(`BR2_PACKAGE_${name.toUpperCase().replace('-', '_')}`),
  )
}

/** @throws FlotillaError NOT_FOUND when the agent goes into the image and was not bundled */
export function requireAgent(prepared: Prepared): void {
  if (localPackages(prepared).includes('flotilla-agent') && prepared.place.variables['FLOTILLA_PROGRAMS'] === undefined)
    throw new FlotillaError('NOT_FOUND', 'compile: the agent is not bundled; run npm run bundle first')
}

export async function configure({
  composition,
  workspace,
  buildroot,
  config,
  variables,
}: Prepared): Promise<Configured> {
  const configured = await configureWorkspace(composition, buildroot, workspace, variables)
  if (configured.errors === 0)
    workspace.save({
      config,
      sha256: composition.sha256,
      buildroot: buildroot.version,
      cflags: composition.cflags.join(' '),
    })
  return configured
}

export function refuseLost({ workspace, buildroot }: Prepared, { errors }: Configured): void {
  if (errors === 0) return
  const what = `${errors} settings were lost on Buildroot ${buildroot.version}`
  throw new FlotillaError(
    'BAD_CONFIG',
    `configure ${workspace.name}: ${what}; correct them, or waive them in metadata/waivers`,
  )
}

/** Configures when something that goes in has changed, or never was. */
export async function configureIfStale(prepared: Prepared): Promise<void> {
  const { composition, workspace, buildroot, config } = prepared
  const state = workspace.state()
  const isFresh =
    state?.sha256 === composition.sha256 && state.buildroot === buildroot.version && state.config === config
  if (isFresh && existsSync(join(workspace.output, '.config'))) return
  const configured = await configure(prepared)
  reportFindings(configured.findings)
  refuseLost(prepared, configured)
  // Buildroot rebuilds nothing for it.
  if (state !== undefined && state.cflags !== composition.cflags.join(' '))
    process.stderr.write(
      'note: the compiler flags changed; what is built already keeps the old ones until flotilla br clean\n',
    )
}

/** Prints what became of settings that did not come out as they were asked for. */
export function reportFindings(findings: Configured['findings']): void {
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
