import { cpSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { GATES, ROOT, runGate } from '../setup/gates.ts'

/** Faults that each gate must find, planted in a copy of the project: a gate that cannot fail is no gate. */
const CANARIES: readonly {
  readonly gate: string
  readonly fault: string
  readonly file: string
  readonly text: string
}[] = [
  { gate: 'types', fault: 'a wrong type', file: 'protocol/canary.ts', text: 'export const canary: number = "text"\n' },
  {
    gate: 'lint and import directions',
    fault: 'a promise nobody waits for',
    file: 'protocol/canary.ts',
    text: 'export function canary(): void {\n  Promise.resolve(1)\n}\n',
  },
  {
    gate: 'lint and import directions',
    fault: 'the agent importing the builder',
    file: 'agent/canary.ts',
    text: "import { KEY_PURPOSES } from '../builder/release/key-file.ts'\n\nexport const canary = KEY_PURPOSES\n",
  },
  {
    gate: 'lint and import directions',
    fault: 'the protocol importing the agent',
    file: 'protocol/canary.ts',
    text: "import { IDLE } from '../agent/slots/update-machine.ts'\n\nexport const canary = IDLE\n",
  },
  {
    gate: 'lint and import directions',
    fault: 'an engine that reads files',
    file: 'protocol/exchange/canary.ts',
    text: "import { readFileSync } from 'node:fs'\n\nexport const canary = readFileSync\n",
  },
  { gate: 'formatting', fault: 'double quotes', file: 'protocol/canary.ts', text: 'export const canary = "text"\n' },
  {
    gate: 'unused code',
    fault: 'a file that nobody imports',
    file: 'protocol/canary.ts',
    text: 'export const canary = 1\n',
  },
]

describe('the gates', () => {
  let copy: string

  beforeAll(() => {
    copy = mkdtempSync(join(tmpdir(), 'flotilla-gates-'))
    for (const name of ['agent', 'builder', 'protocol', 'test', 'package.json', 'tsconfig.json', '.gitignore']) {
      cpSync(join(ROOT, name), join(copy, name), { recursive: true })
    }
    symlinkSync(join(ROOT, 'node_modules'), join(copy, 'node_modules'))
  })

  afterAll(() => rmSync(copy, { recursive: true }))

  // One run finds all faults of a gate; that it passes without them, `npm test` itself shows.
  it.each(GATES.map((gate) => [gate.name, gate] as const))('%s finds each fault', (name, gate) => {
    const planted = CANARIES.filter((canary) => canary.gate === name).map(({ file, text, fault }, at) => {
      const path = join(copy, file.replace('canary', `canary-${at}`))
      writeFileSync(path, text)
      return { path, fault }
    })
    expect(planted.length).toBeGreaterThan(0)
    try {
      const { passed, output } = runGate(gate, copy)
      expect(passed, output).toBe(false)
      for (const { path, fault } of planted) expect(output, fault).toContain(basename(path))
    } finally {
      for (const { path } of planted) rmSync(path)
    }
  })
})
