import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { FlotillaError } from '../../protocol/errors.ts'
import type { Composition } from '../layers/compose-layers.ts'
import { type MergedSymbol, mergeSettings, parseFragment } from '../layers/kconfig-fragment.ts'
import { readText } from '../layers/layer.ts'
import type { Buildroot } from './find-buildroot.ts'
import { readBuildrootTree } from './kconfig-tree.ts'
import { planConfigure } from './plan-configure.ts'
import { runMake } from './run-make.ts'
import { checkStrictly, type Finding, isError, parseDotConfig } from './strict-check.ts'
import type { Workspace } from './workspace.ts'

/** How configuring ended: what the configuration is, and what did not come out as the layers asked. */
export type Configured = {
  readonly findings: readonly (Finding & { readonly waived: string | undefined })[]
  readonly errors: number
}

/**
 * Turns a composition into Buildroot's configuration of a workspace and checks that every request took effect.
 * @throws FlotillaError BAD_CONFIG when make refuses it or a waiver has no reason, BAD_INPUT for a path with a space
 */
export async function configureWorkspace(
  composition: Composition,
  buildroot: Buildroot,
  workspace: Workspace,
  environment: Readonly<Record<string, string>>,
): Promise<Configured> {
  workspace.make()
  const plan = planConfigure(composition, workspace, environment)
  for (const name of ['buildroot', 'kernel', 'busybox', 'uboot', 'hooks'])
    rmSync(join(workspace.generated, name), { recursive: true, force: true })
  for (const { path, text, executable } of plan.files) {
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, text)
    if (executable) chmodSync(path, 0o755)
  }
  const { output, downloads } = workspace
  const place = { buildroot: buildroot.path, output, downloads, externals: plan.externals, variables: {} }
  const made = await runMake(place, ['-s', 'defconfig', `BR2_DEFCONFIG=${plan.defconfig}`])
  if (made.code !== 0)
    throw new FlotillaError('BAD_CONFIG', `configure ${workspace.name}: make defconfig failed: ${tail(made.output)}`)
  const tree = readBuildrootTree(buildroot.path, workspace.output, externalNames(plan.externals))
  const config = parseDotConfig(readFileSync(join(workspace.output, '.config'), 'utf8'))
  const waivers = readWaivers(composition)
  const findings = checkStrictly(requestedSymbols(composition, plan.defconfig), config, tree).map((finding) => ({
    ...finding,
    waived: waivers.get(finding.setting.symbol),
  }))
  return { findings, errors: findings.filter((finding) => isError(finding) && finding.waived === undefined).length }
}

/** What was written, with the layer's file and line where the value is the layer's. */
function requestedSymbols({ symbols }: Composition, defconfig: string): ReadonlyMap<string, MergedSymbol> {
  const written = mergeSettings(parseFragment('buildroot', readText(defconfig), defconfig))
  return new Map(
    [...written].map(([symbol, merged]) => {
      const asked = symbols.buildroot.get(symbol)
      return [symbol, asked?.setting.value === merged.setting.value ? asked : merged]
    }),
  )
}

/**
 * `metadata/waivers` of the layers: `SYMBOL reason…` in each line. A layer's word that it knows that a symbol has no effect
 * somewhere; without a reason it is none.
 * @throws FlotillaError BAD_CONFIG with file and line
 */
export function readWaivers({ layers }: Pick<Composition, 'layers'>): ReadonlyMap<string, string> {
  const waivers = new Map<string, string>()
  for (const { path } of layers) {
    const file = join(path, 'metadata/waivers')
    let text: string
    try {
      text = readFileSync(file, 'utf8')
    } catch {
      continue // it has none
    }
    for (const [at, raw] of text.split('\n').entries()) {
      const line = raw.trim()
      if (line === '' || line.startsWith('#')) continue
      const [, symbol, reason] = /^(\w+)\s+(\S.*)$/.exec(line) ?? []
      if (symbol === undefined || reason === undefined)
        throw new FlotillaError('BAD_CONFIG', `${file}:${at + 1}: wanted a symbol and the reason why it may be lost`)
      waivers.set(symbol, reason)
    }
  }
  return waivers
}

function externalNames(paths: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(
    paths.map((path) => [/^name:\s*(\w+)/m.exec(readText(join(path, 'external.desc')))?.[1] ?? '', path]),
  )
}

function tail(output: string): string {
  return output.trim().split('\n').slice(-3).join(' / ')
}
