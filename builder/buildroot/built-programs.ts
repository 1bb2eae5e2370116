import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Composition } from '../layers/compose-layers.ts'
import type { FragmentKind } from '../layers/kconfig-fragment.ts'
import { type BuildPlace, runMake } from './run-make.ts'
import { type Finding, parseDotConfig } from './strict-check.ts'

/** Programs with a configuration of their own, and Buildroot's variable that says where each is built. */
const DIRECTORY_VARIABLE = { kernel: 'LINUX_DIR', busybox: 'BUSYBOX_DIR', uboot: 'UBOOT_DIR' } as const

/**
 * The `.config` of a program as it was, or is being, built.
 * @returns undefined as long as its source was not unpacked and configured
 */
export async function readBuiltConfig(kind: FragmentKind, place: BuildPlace): Promise<string | undefined> {
  if (kind === 'buildroot') return readIfThere(join(place.output, '.config'))
  const variable = DIRECTORY_VARIABLE[kind]
  const { code, output } = await runMake(place, ['-s', '--no-print-directory', 'printvars', `VARS=${variable}`])
  const directory = new RegExp(`^${variable}=(/.+)$`, 'm').exec(output)?.[1]
  return code === 0 && directory !== undefined ? readIfThere(join(directory, '.config')) : undefined
}

function readIfThere(path: string): string | undefined {
  return existsSync(path) ? readFileSync(path, 'utf8') : undefined
}

/** The symbol that says that a program is built at all, and the target that configures it. */
const CONFIGURE = [
  { kind: 'kernel', symbol: 'BR2_LINUX_KERNEL', target: 'linux-configure' },
  { kind: 'busybox', symbol: 'BR2_PACKAGE_BUSYBOX', target: 'busybox-configure' },
  { kind: 'uboot', symbol: 'BR2_TARGET_UBOOT_BUILD_SYSTEM_KCONFIG', target: 'uboot-configure' },
] as const

/** The make targets after which the fragments of layers can be checked: hours before the images would be done. Pure. */
export function configureTargets({ symbols }: Pick<Composition, 'symbols'>, dotConfig: string): readonly string[] {
  const config = parseDotConfig(dotConfig)
  return CONFIGURE.filter(({ kind, symbol }) => symbols[kind].size > 0 && config.get(symbol) === 'y').map(
    ({ target }) => target,
  )
}

/**
 * What became of the kernel, U-Boot and BusyBox fragments. Buildroot merges them and never looks whether they took effect; a
 * kernel that lost SQUASHFS does not boot.
 * @param configs - the `.config` of each program that was configured
 */
export function checkFragments(
  { symbols }: Pick<Composition, 'symbols'>,
  configs: Readonly<Partial<Record<FragmentKind, string | undefined>>>,
): readonly Finding[] {
  return (['kernel', 'busybox', 'uboot'] as const).flatMap((kind) => {
    const text = configs[kind]
    if (text === undefined) return []
    const config = parseDotConfig(text)
    return [...symbols[kind].values()].flatMap(({ setting }): Finding[] => {
      const found = config.get(setting.symbol) ?? 'n'
      // A module where something built in was wanted is a loss; the other way round it is not.
      if (found === setting.value || (setting.value === 'm' && found === 'y')) return []
      const isEmpty = (value: string) => value === 'n' || value === '""'
      if (isEmpty(found) && isEmpty(setting.value)) return []
      const verdict = isEmpty(found) ? 'dropped' : isEmpty(setting.value) ? 'selected' : 'value'
      return [{ verdict, setting, found, why: `the ${kind} is configured with ${found}` }]
    })
  })
}
