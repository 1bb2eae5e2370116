import { join } from 'node:path'
import { type Composition, WIRING } from '../layers/compose-layers.ts'
import { type FragmentKind, formatSettings, type Setting } from '../layers/kconfig-fragment.ts'
import { requireNoSpace, type Workspace } from './workspace.ts'

/** What configuring writes, before `make defconfig` reads it. Paths are absolute. */
export type ConfigurePlan = {
  readonly files: readonly { readonly path: string; readonly text: string; readonly executable: boolean }[]
  /** The file of settings that becomes Buildroot's configuration. */
  readonly defconfig: string
  readonly externals: readonly string[]
}

/**
 * Lays out what a composition becomes: fragments, hook scripts, and the settings that join them. Pure.
 * Settings that have a parent (a kernel, a U-Boot) are written only when the layers ask for the parent: Kconfig would drop
 * them without a word.
 * @param environment - `SKIFF_*` variables for the hooks
 * @throws FlotillaError BAD_INPUT for a layer in a path with a space
 */
export function planConfigure(
  composition: Composition,
  workspace: Workspace,
  environment: Readonly<Record<string, string>>,
): ConfigurePlan {
  for (const { path } of composition.layers) requireNoSpace(path)
  const at = (name: string) => join(workspace.generated, name)
  const { symbols, settings } = composition
  const isOn = (symbol: string) => symbols.buildroot.get(symbol)?.setting.value === 'y'
  const files: ConfigurePlan['files'][number][] = []
  const put = (name: string, text: string, executable = false) => {
    files.push({ path: at(name), text, executable })
    return at(name)
  }
  const fragments = (kind: FragmentKind) =>
    byFile(settings[kind]).map((list, n) => put(`${kind}/${String(n).padStart(3, '0')}.config`, formatSettings(list)))
  const wiring: [symbol: string, values: readonly string[]][] = [
    ['BR2_GLOBAL_PATCH_DIR', composition.patches.buildroot],
    ['BR2_ROOTFS_OVERLAY', composition.overlays],
    ['BR2_ROOTFS_USERS_TABLES', composition.users],
    ['BR2_ROOTFS_POST_BUILD_SCRIPT', hookScript(composition, workspace, 'pre', environment, put)],
    ['BR2_ROOTFS_POST_IMAGE_SCRIPT', hookScript(composition, workspace, 'post', environment, put)],
  ]
  if (composition.permissions.length > 0)
    wiring.push(['BR2_ROOTFS_DEVICE_TABLE', ['system/device_table.txt', ...composition.permissions]])
  if (isOn('BR2_LINUX_KERNEL')) {
    wiring.push(['BR2_LINUX_KERNEL_CONFIG_FRAGMENT_FILES', fragments('kernel')])
    wiring.push(['BR2_LINUX_KERNEL_PATCH', composition.patches.kernel])
  }
  if (isOn('BR2_TARGET_UBOOT')) {
    wiring.push(['BR2_TARGET_UBOOT_CONFIG_FRAGMENT_FILES', fragments('uboot')])
    wiring.push(['BR2_TARGET_UBOOT_PATCH', composition.patches.uboot])
  }
  if (symbols.buildroot.get('BR2_PACKAGE_BUSYBOX')?.setting.value !== 'n')
    wiring.push(['BR2_PACKAGE_BUSYBOX_CONFIG_FRAGMENT_FILES', fragments('busybox')])
  if (composition.cflags.length > 0) wiring.push(['BR2_TARGET_OPTIMIZATION', composition.cflags])
  const wired = wiring.filter(([, values]) => values.length > 0)
  // A layer may name a table of modes itself, as long as no layer brings one in its own directory.
  const replaced = WIRING.filter((symbol) => symbol !== 'BR2_ROOTFS_DEVICE_TABLE')
  const names = new Set([...replaced, ...wiring.map(([symbol]) => symbol)])
  const own = [...symbols.buildroot.values()].map(({ setting }) => setting).filter(({ symbol }) => !names.has(symbol))
  const joined = wired.map(([symbol, values]) => ({ symbol, value: `"${values.join(' ')}"` }))
  const defconfig = put('buildroot/defconfig', formatSettings([...own, ...joined]))
  return { files, defconfig, externals: composition.externals }
}

/** Settings in the files that they came from, so that a program's own messages still tell them apart. */
function byFile(settings: readonly Setting[]): readonly (readonly Setting[])[] {
  const files: Setting[][] = []
  for (const setting of settings) {
    const last = files.at(-1)
    if (last?.[0]?.file === setting.file) last.push(setting)
    else files.push([setting])
  }
  return files
}

/** One script that runs the hooks of all layers in order; the first that fails stops the build and is named. */
function hookScript(
  { hooks, layers }: Composition,
  workspace: Workspace,
  moment: 'pre' | 'post',
  environment: Readonly<Record<string, string>>,
  put: (name: string, text: string, executable: boolean) => string,
): readonly string[] {
  if (hooks[moment].length === 0) return []
  const variables = Object.entries(environment).map(([name, value]) => `export ${name}=${quoted(value)}\n`)
  const steps = hooks[moment].map(({ layer, script }) => {
    const path = layers.find(({ name }) => name === layer)?.path ?? ''
    return `echo ${quoted(`hook ${moment} of ${layer}`)}
SKIFF_CURRENT_CONF_DIR=${quoted(path)} bash ${quoted(script)} "$@" || { echo ${quoted(`hook ${script} failed`)} >&2; exit 1; }
`
  })
  const text = `#!/bin/bash\n# Generated: the ${moment} hooks of the layers.\nset -eo pipefail\n${variables.join('')}export PATH=${quoted(join(workspace.output, 'host/bin'))}:"$PATH"\ncd ${quoted(workspace.output)}\n${steps.join('')}`
  return [put(`hooks/${moment}.sh`, text, true)]
}

/** As one word of a shell, whatever is in it. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}
