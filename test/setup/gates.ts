import { spawnSync } from 'node:child_process'
import { join, resolve } from 'node:path'

/** The root of the project. */
export const ROOT = resolve(import.meta.dirname, '../..')

/** A check of the code base; `run` in a copy of the tree tells whether it finds a fault planted there. */
export type Gate = { readonly name: string; readonly command: readonly string[] }

const bin = (name: string) => join(ROOT, 'node_modules/.bin', name)

/** Types, lint with types, import directions and unused code, formatting. */
export const GATES: readonly Gate[] = [
  { name: 'types', command: [bin('tsc'), '--noEmit'] },
  {
    name: 'lint and import directions',
    command: [
      bin('oxlint'),
      '--config',
      'test/setup/oxlint.json',
      '--type-aware',
      '--deny-warnings',
      'agent',
      'builder',
      'protocol',
      'test',
    ],
  },
  {
    name: 'formatting',
    command: [
      bin('biome'),
      'format',
      '--config-path=test/setup/formatting.json',
      'agent',
      'builder',
      'protocol',
      'test',
    ],
  },
  { name: 'unused code', command: [bin('knip'), '--config', 'test/setup/knip.json', '--no-progress'] },
]

/** Runs a gate in a directory that looks like the project. */
export function runGate(gate: Gate, directory = ROOT): { readonly passed: boolean; readonly output: string } {
  const [command = '', ...args] = gate.command
  const done = spawnSync(command, args, { cwd: directory, encoding: 'utf8' })
  return { passed: done.status === 0, output: `${done.stdout}${done.stderr}` }
}
