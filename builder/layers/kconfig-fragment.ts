import { FlotillaError } from '../../protocol/errors.ts'

/** The four programs that layers configure, by the directory of their fragments. */
export const FRAGMENT_KINDS = ['buildroot', 'kernel', 'busybox', 'uboot'] as const
export type FragmentKind = (typeof FRAGMENT_KINDS)[number]

/** One request of a fragment: `value` as it is written (quotes included), `n` for `# X is not set`. */
export type Setting = {
  readonly symbol: string
  readonly value: string
  readonly file: string
  readonly line: number
}

const PREFIX = { buildroot: 'BR2_', kernel: 'CONFIG_', busybox: 'CONFIG_', uboot: 'CONFIG_' } as const

/**
 * Parses a Kconfig fragment. Comments and empty lines are skipped.
 * @param onProblem - hears of anything that is no setting, and of a setting of another program: a `CONFIG_` line under
 * `buildroot/` would do nothing without a word. Left out, it is thrown
 * @throws FlotillaError BAD_CONFIG with file and line
 */
export function parseFragment(
  kind: FragmentKind,
  text: string,
  file: string,
  onProblem: (problem: FlotillaError) => void = (problem) => {
    throw problem
  },
): readonly Setting[] {
  return text.split('\n').flatMap((raw, at) => {
    const line = raw.trim()
    const unset = /^# ([A-Za-z0-9_]+) is not set$/.exec(line)?.[1]
    if (unset === undefined && (line === '' || line.startsWith('#'))) return []
    const [, symbol = unset, value = 'n'] = /^([A-Za-z0-9_]+)=(.*)$/.exec(line) ?? []
    const where = `${file}:${at + 1}`
    if (symbol === undefined) {
      onProblem(
        new FlotillaError('BAD_CONFIG', `${where}: wanted SYMBOL=value or "# SYMBOL is not set", found ${line}`),
      )
      return []
    }
    if (!symbol.startsWith(PREFIX[kind])) {
      onProblem(misplaced(kind, symbol, where))
      return []
    }
    return [{ symbol, value: withoutComment(value), file, line: at + 1 }]
  })
}

/** Kconfig itself knows no comment behind a value; people write them. */
function withoutComment(value: string): string {
  return /^("(?:[^"\\]|\\.)*")\s*(#.*)?$/.exec(value)?.[1] ?? value.replace(/\s+#.*$/, '')
}

function misplaced(kind: FragmentKind, symbol: string, where: string): FlotillaError {
  const right = symbol.startsWith('BR2_')
    ? 'move it to buildroot/'
    : symbol.startsWith('CONFIG_')
      ? 'move it to kernel/, busybox/ or uboot/'
      : `did you mean ${PREFIX[kind]}${symbol}?`
  return new FlotillaError(
    'BAD_CONFIG',
    `${where}: ${symbol} does nothing under ${kind}/, whose symbols begin with ${PREFIX[kind]}; ${right}`,
  )
}

/** A symbol after all layers: the setting that holds and those it overrode, the latest first. */
export type MergedSymbol = { readonly setting: Setting; readonly overrode: readonly Setting[] }

/** Later settings win. Pure. @returns by symbol, in the order in which the settings that hold were made */
export function mergeSettings(settings: readonly Setting[]): ReadonlyMap<string, MergedSymbol> {
  const merged = new Map<string, MergedSymbol>()
  for (const setting of settings) {
    const before = merged.get(setting.symbol)
    merged.delete(setting.symbol) // to the end: a choice is decided by the last of its members
    merged.set(setting.symbol, {
      setting,
      overrode: before === undefined ? [] : [before.setting, ...before.overrode],
    })
  }
  return merged
}

/** Settings as a fragment file. */
export function formatSettings(settings: Iterable<Pick<Setting, 'symbol' | 'value'>>): string {
  return [...settings]
    .map(({ symbol, value }) => (value === 'n' ? `# ${symbol} is not set\n` : `${symbol}=${value}\n`))
    .join('')
}
