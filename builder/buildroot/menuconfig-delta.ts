import type { FragmentKind } from '../layers/kconfig-fragment.ts'
import { parseDotConfig } from './strict-check.ts'

/** Targets that change a configuration by hand, with the program whose it is. */
const MENUS: Readonly<Record<string, FragmentKind>> = {
  menuconfig: 'buildroot',
  nconfig: 'buildroot',
  xconfig: 'buildroot',
  gconfig: 'buildroot',
  config: 'buildroot',
}
const PROGRAMS: Readonly<Record<string, FragmentKind>> = { linux: 'kernel', busybox: 'busybox', uboot: 'uboot' }

/** The program that a make target configures by hand, undefined when it does not. Pure. */
export function menuOf(target: string): FragmentKind | undefined {
  const [, program = '', menu = ''] = /^(?:(linux|busybox|uboot)-)?(\w*config)$/.exec(target) ?? []
  if (!(menu in MENUS)) return undefined
  return program === '' ? MENUS[menu] : PROGRAMS[program]
}

/**
 * What was changed by hand between two `.config` files, as settings. Pure.
 * @param before - the file as the layers made it
 */
export function configDelta(
  before: string,
  after: string,
): readonly { readonly symbol: string; readonly value: string }[] {
  const [old, now] = [parseDotConfig(before), parseDotConfig(after)]
  const changed = [...now].filter(([symbol, value]) => (old.get(symbol) ?? 'n') !== value)
  const gone = [...old]
    .filter(([symbol, value]) => value !== 'n' && !now.has(symbol))
    .map(([symbol]) => [symbol, 'n'] as const)
  return [...changed, ...gone].map(([symbol, value]) => ({ symbol, value }))
}
