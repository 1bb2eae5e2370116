import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { checkFragments } from '../../builder/buildroot/built-programs.ts'
import { readWaivers } from '../../builder/buildroot/configure.ts'
import { startsKernel } from '../../protocol/boot/slot-files.ts'
import { readBoard } from '../../builder/layers/board.ts'
import { type BoardProof, readProofs, withProof, writeProofs } from '../../builder/layers/board-proof.ts'
import { type Composition, composeLayers } from '../../builder/layers/compose-layers.ts'
import type { FragmentKind } from '../../builder/layers/kconfig-fragment.ts'
import { openCatalogue, openChain } from '../../builder/layers/open-chain.ts'
import { messageOf } from '../../protocol/errors.ts'

export const ROOT = resolve(import.meta.dirname, '../..')
const PROOF = join(ROOT, 'configs/proof.json')

/** Kconfig asks the compiler what it can do. */
const ARCHITECTURES = [
  { symbol: 'BR2_x86_64', arch: 'x86_64', compiler: '' },
  { symbol: 'BR2_aarch64', arch: 'arm64', compiler: 'aarch64-linux-gnu-' },
  { symbol: 'BR2_arm', arch: 'arm', compiler: 'arm-linux-gnueabihf-' },
] as const

/** What is proven of every board on one source. */
export type BoardTest = {
  readonly step: keyof BoardProof
  /** Of the source. */
  readonly version: string
  /** Only boards for which this Buildroot symbol is set. */
  readonly symbol: string
  readonly fragments: FragmentKind
  /** @returns what is wrong, a line each; what it throws is another */
  readonly problems: (composition: Composition, scratch: string) => readonly string[]
}

/**
 * Tests the boards named on the command line, or all, prints a line each and `N passed, N failed, N skipped`, and writes what it
 * saw to `configs/proof.json`.
 */
export function proveBoards(test: BoardTest): void {
  const wanted = process.argv.slice(2).filter((word) => !word.startsWith('--'))
  const where = { root: ROOT, skiffos: undefined, environment: {} }
  const catalogue = openCatalogue(where)
  const scratch = mkdtempSync(join(tmpdir(), 'flotilla-boards-'))
  let proofs = readProofs(PROOF)
  const total = { passed: 0, failed: 0 }
  try {
    for (const { name } of catalogue.list()) {
      if (wanted.length > 0 && !wanted.includes(name)) continue
      const board = readBoard(catalogue.get(name, test.step))
      if (board === undefined) continue
      const ours = startsKernel(board.family) ? 'flotilla/init,flotilla/modules' : 'flotilla/agent'
      const composition = composeLayers(openChain(where, `${name},${ours},apps/docker`, 'default'))
      if (valueOf(composition, test.symbol) !== 'y') continue
      const problems = tryProblems(test, composition, scratch)
      const passed = problems.length === 0
      total[passed ? 'passed' : 'failed'] += 1
      const { size } = composition.symbols[test.fragments]
      process.stdout.write(
        `${passed ? 'ok    ' : 'FAILED'} ${test.version}  ${name}: ${size} ${test.fragments} settings\n`,
      )
      for (const problem of problems) process.stdout.write(`       ${problem}\n`)
      proofs = withProof(proofs, name, test.step, test.version, passed)
    }
  } finally {
    rmSync(scratch, { recursive: true })
  }
  writeProofs(PROOF, proofs)
  process.stdout.write(`${total.passed} passed, ${total.failed} failed, 0 skipped\n`)
  process.exitCode = total.failed === 0 && total.passed > 0 ? 0 : 1
}

function tryProblems(test: BoardTest, composition: Composition, scratch: string): readonly string[] {
  try {
    return test.problems(composition, scratch)
  } catch (error) {
    return [messageOf(error)]
  }
}

/** Of a Buildroot symbol, without quotes; empty when no layer sets it. */
export function valueOf({ symbols }: Composition, symbol: string): string {
  return (symbols.buildroot.get(symbol)?.setting.value ?? '').replaceAll('"', '')
}

/** What the kernel calls the board's architecture, and the prefix of Debian's compiler for it. */
export function architectureOf(composition: Composition): (typeof ARCHITECTURES)[number] {
  const found = ARCHITECTURES.find(({ symbol }) => valueOf(composition, symbol) === 'y')
  if (found === undefined) throw new Error('no architecture is set')
  return found
}

/** Settings of the layers that a resolved configuration does not have and no layer waives, a line each. */
export function lostSettings(composition: Composition, kind: FragmentKind, dotConfig: string): readonly string[] {
  const waivers = readWaivers(composition)
  return checkFragments(composition, { [kind]: dotConfig })
    .filter(({ setting }) => !waivers.has(setting.symbol))
    .map(({ setting, found }) => `${setting.file}:${setting.line}: ${setting.symbol}=${setting.value} is ${found}`)
}
