import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { mergeSettings, parseFragment } from '../layers/kconfig-fragment.ts'
import { type Expression, evaluate, formatExpression, parseExpression, unmet } from './kconfig-expression.ts'
import { readKconfigTree } from './kconfig-tree.ts'
import { checkStrictly, isError, parseDotConfig } from './strict-check.ts'

const values: Readonly<Record<string, string>> = { A: 'y', B: 'n', V: '15' }
const valueOf = (symbol: string) => values[symbol] ?? 'n'
const holds = (text: string) => {
  const expression = parseExpression(text)
  return expression === undefined ? 'not an expression' : evaluate(expression, valueOf)
}

describe('a condition', () => {
  it('is judged with the precedence of Kconfig', () => {
    expect(holds('A && !B')).toBe(true)
    expect(holds('B || A && B')).toBe(false)
    expect(holds('(B || A) && !B # why')).toBe(true)
    expect(holds('V = "15"')).toBe(true)
    expect(holds('V != 15 || V >= 20')).toBe(false)
    expect(holds('y')).toBe(true)
    expect(holds('A &&')).toBe('not an expression')
    expect(holds('')).toBe('not an expression')
  })

  it('names the smallest parts that do not hold', () => {
    const expression = parseExpression('A && (B || !A) && B && V = "16"')
    expect(expression && unmet(expression, valueOf)).toEqual(['B || !A', 'B', 'V = "16"'])
  })

  it('means the same when it is written and read again', () => {
    const leaf = fc.constantFrom('A', 'B', 'C').map((name): Expression => ({ type: 'symbol', name }))
    const { tree } = fc.letrec<{ tree: Expression }>((tie) => ({
      tree: fc.oneof(
        { maxDepth: 5, withCrossShrink: true },
        leaf,
        tie('tree').map((of): Expression => ({ type: 'not', of })),
        fc
          .tuple(fc.constantFrom('and' as const, 'or' as const), tie('tree'), tie('tree'))
          .map(([type, left, right]): Expression => ({ type, left, right })),
      ),
    }))
    fc.assert(
      fc.property(tree, fc.nat(7), (expression, bits) => {
        const of = (symbol: string) => ((bits >> ['A', 'B', 'C'].indexOf(symbol)) & 1 ? 'y' : 'n')
        const again = parseExpression(formatExpression(expression))
        expect(again && evaluate(again, of)).toBe(evaluate(expression, of))
        expect(unmet(expression, of).length === 0).toBe(evaluate(expression, of))
      }),
    )
  })
})

let root: string
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'kconfig-'))
})
afterEach(() => rmSync(root, { recursive: true }))

const KCONFIG = {
  'Config.in': `mainmenu "test"
config BR2_arm
	bool
choice
	prompt "Target"
	depends on !BR2_NONE
config BR2_cortex_a7
	bool "cortex-A7"
	select BR2_arm
config BR2_cortex_a53
	bool "cortex-A53"
endchoice # Target
source "package/Config.in"
source "Config.in.legacy"
`,
  'package/Config.in': `menu "Packages"
	depends on BR2_USE_MMU
if BR2_arm || \\
	BR2_aarch64
config BR2_PACKAGE_X
	bool "x"
	depends on BR2_TOOLCHAIN_USES_GLIBC # c++ only
	help
	  config BR2_NOT_A_SYMBOL is only mentioned here.

	  if you like
comment "x needs glibc"
	depends on !BR2_TOOLCHAIN_USES_GLIBC
config BR2_PACKAGE_X_NAME
	string "name"
endif
endmenu
config BR2_USE_MMU
	bool
config BR2_TOOLCHAIN_USES_GLIBC
	bool
`,
  'Config.in.legacy': 'config BR2_OLD\n\tbool "old"\n',
}

function tree() {
  for (const [path, text] of Object.entries(KCONFIG)) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
  }
  return readKconfigTree(join(root, 'Config.in'), {})
}

describe('a Kconfig tree', () => {
  it('knows symbols, where they stand, and everything that they depend on', () => {
    const { symbols, legacy } = tree()
    expect(symbols.has('BR2_NOT_A_SYMBOL')).toBe(false)
    const [x] = symbols.get('BR2_PACKAGE_X') ?? []
    expect(x?.conditions.map(formatExpression)).toEqual([
      'BR2_USE_MMU',
      'BR2_arm || BR2_aarch64',
      'BR2_TOOLCHAIN_USES_GLIBC',
    ])
    // What a comment depends on is its own.
    expect(symbols.get('BR2_PACKAGE_X_NAME')?.[0]?.conditions).toHaveLength(2)
    expect([x?.file, x?.line, x?.hasPrompt]).toEqual([join(root, 'package/Config.in'), 5, true])
    expect(symbols.get('BR2_arm')?.[0]?.hasPrompt).toBe(false)
    const choice = (name: string) => symbols.get(name)?.[0]?.choice
    expect(choice('BR2_cortex_a7')).toBe(choice('BR2_cortex_a53'))
    expect(choice('BR2_PACKAGE_X')).toBeUndefined()
    expect([...legacy]).toEqual(['BR2_OLD'])
  })

  it('says which file is missing', () => {
    writeFileSync(join(root, 'Config.in'), 'source "gone/Config.in"\n')
    expect(() => readKconfigTree(join(root, 'Config.in'), {})).toThrow(/gone\/Config.in/)
  })
})

describe('the strict check', () => {
  const check = (fragment: string, config: string) =>
    checkStrictly(
      mergeSettings(parseFragment('buildroot', fragment, 'layer/buildroot/x')),
      parseDotConfig(config),
      tree(),
    )

  it('passes what came out as it was asked for', () => {
    const fragment = 'BR2_cortex_a7=y\n# BR2_PACKAGE_X is not set\nBR2_PACKAGE_X_NAME=""\n'
    expect(check(fragment, 'BR2_cortex_a7=y\nBR2_arm=y\n')).toEqual([])
  })

  it('classes everything else, with file, line and the condition that is not met', () => {
    const fragment = `BR2_TYPO=y
BR2_OLD=y
BR2_PACKAGE_X=y
BR2_PACKAGE_X_NAME="mine"
# BR2_arm is not set
BR2_cortex_a7=y
BR2_cortex_a53=y
`
    const config = 'BR2_USE_MMU=y\nBR2_arm=y\nBR2_cortex_a53=y\nBR2_PACKAGE_X_NAME="other"\n'
    const found = check(fragment, config).map(({ verdict, setting, why }) => [setting.line, verdict, why])
    expect(found).toEqual([
      [1, 'unknown', 'no Kconfig file defines it'],
      [2, 'legacy', expect.stringContaining('Config.in.legacy')],
      [3, 'dropped', 'it needs BR2_TOOLCHAIN_USES_GLIBC'],
      [4, 'value', 'it is "other"'],
      [5, 'selected', expect.any(String)],
      [6, 'choice', 'BR2_cortex_a53 was chosen at layer/buildroot/x:7'],
    ])
    expect(check(fragment, config).filter(isError)).toHaveLength(4)
  })

  it('does not take a member of a choice for wanted that nobody asked for', () => {
    const [finding] = check('BR2_cortex_a7=y\n', 'BR2_cortex_a53=y\n')
    expect(finding).toMatchObject({
      verdict: 'dropped',
      why: 'another member of its choice won that no layer asked for',
    })
  })

  it('takes only a later member of a choice for its winner, and minds no symbol that is wished away', () => {
    // The later one was dropped, so the earlier one is there: that is a loss.
    const [finding] = check('BR2_cortex_a53=y\nBR2_cortex_a7=y\n', 'BR2_cortex_a53=y\n')
    expect(finding).toMatchObject({ verdict: 'dropped', setting: { symbol: 'BR2_cortex_a7' } })
    expect(check('# BR2_NO_SUCH_THING is not set\n', '')).toEqual([])
  })

  it('says so when a symbol can only be selected', () => {
    expect(check('BR2_USE_MMU=y\n', '')[0]?.why).toBe('it cannot be set: only others select it')
  })
})
