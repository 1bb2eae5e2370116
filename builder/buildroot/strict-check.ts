import type { MergedSymbol, Setting } from '../layers/kconfig-fragment.ts'
import { type ValueOf, unmet } from './kconfig-expression.ts'
import type { KconfigTree, SymbolDefinition } from './kconfig-tree.ts'

/**
 * What became of a request that did not come out as it was written.
 * unknown, legacy, dropped, value: errors. selected: a warning. choice: another layer wanted another member.
 */
export type Finding = {
  readonly verdict: 'unknown' | 'legacy' | 'dropped' | 'value' | 'selected' | 'choice'
  readonly setting: Setting
  /** What the configuration has instead. */
  readonly found: string
  /** Why, as far as the Kconfig files tell: the conditions that do not hold, or who won the choice. */
  readonly why: string
}

/** A layer's word that it knows: the finding does not stop the build. */
export type Waiver = { readonly symbol: string; readonly reason: string; readonly file: string; readonly line: number }

const ERRORS: readonly Finding['verdict'][] = ['unknown', 'legacy', 'dropped', 'value']

export function isError({ verdict }: Finding): boolean {
  return ERRORS.includes(verdict)
}

/** Parses a `.config`: symbol → value as it is written; `n` for those that are not set. */
export function parseDotConfig(text: string): ReadonlyMap<string, string> {
  const config = new Map<string, string>()
  for (const line of text.split('\n')) {
    const unset = /^# (\w+) is not set$/.exec(line)?.[1]
    const [, symbol, value] = /^(\w+)=(.*)$/.exec(line) ?? []
    if (unset !== undefined) config.set(unset, 'n')
    else if (symbol !== undefined && value !== undefined) config.set(symbol, value)
  }
  return config
}

/**
 * Compares what the layers asked for with what Kconfig made of it, which says nothing itself. Pure.
 * @see facts/buildroot.md 1.2
 */
export function checkStrictly(
  requested: ReadonlyMap<string, MergedSymbol>,
  config: ReadonlyMap<string, string>,
  tree: KconfigTree,
): readonly Finding[] {
  const valueOf: ValueOf = (symbol) => config.get(symbol)?.replaceAll(/^"|"$/g, '') ?? 'n'
  const findings: Finding[] = []
  for (const [symbol, { setting }] of requested) {
    const found = config.get(symbol) ?? 'n'
    const add = (verdict: Finding['verdict'], why: string) => findings.push({ verdict, setting, found, why })
    const definitions = tree.symbols.get(symbol) ?? []
    if (!isSet(setting.value) && !isSet(found)) continue
    if (definitions.length === 0) add('unknown', 'no Kconfig file defines it')
    else if (tree.legacy.has(symbol) && isSet(setting.value))
      add('legacy', 'it was removed; Config.in.legacy says by what it was replaced')
    else if (isSame(setting.value, found)) continue
    else if (!isSet(setting.value))
      add('selected', 'another symbol selects it, or it is its default and cannot be turned off')
    else if (isSet(found)) add('value', `it is ${found}`)
    else {
      const winner = winnerOf(definitions, requested, valueOf, tree)
      if (winner === undefined) add('dropped', whyDropped(definitions, valueOf))
      else add('choice', `${winner.setting.symbol} was chosen at ${winner.setting.file}:${winner.setting.line}`)
    }
  }
  return findings
}

/** `n` and the empty text are what a symbol has that is absent. */
function isSet(value: string): boolean {
  return value !== 'n' && value !== '""'
}

function isSame(wanted: string, found: string): boolean {
  return wanted === found || (!isSet(wanted) && !isSet(found))
}

/** The member of the same choice that won and that a layer asked for. */
function winnerOf(
  definitions: readonly SymbolDefinition[],
  requested: ReadonlyMap<string, MergedSymbol>,
  valueOf: ValueOf,
  tree: KconfigTree,
): MergedSymbol | undefined {
  const choices = definitions.flatMap(({ choice }) => choice ?? [])
  if (choices.length === 0) return undefined
  // In the order in which they were set: of two members the later one wins, an earlier one only where the later was dropped.
  const list = [...requested.values()]
  const after = list.slice(list.findIndex(({ setting }) => definitions.some(({ name }) => name === setting.symbol)) + 1)
  return after.find(({ setting }) => {
    const others = tree.symbols.get(setting.symbol) ?? []
    const isMember = others.some(({ choice }) => choice !== undefined && choices.includes(choice))
    return isMember && setting.value === 'y' && valueOf(setting.symbol) === 'y'
  })
}

function whyDropped(definitions: readonly SymbolDefinition[], valueOf: ValueOf): string {
  const settable = definitions.filter(({ hasPrompt }) => hasPrompt)
  if (settable.length === 0) return 'it cannot be set: only others select it'
  const reasons = settable.map(({ conditions }) => [
    ...new Set(conditions.flatMap((condition) => unmet(condition, valueOf))),
  ])
  const fewest = reasons.sort((a, b) => a.length - b.length)[0] ?? []
  if (fewest.length > 0) return `it needs ${fewest.join(' and ')}`
  return 'another member of its choice won that no layer asked for'
}
