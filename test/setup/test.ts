import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join, relative } from 'node:path'
import { buildImages, CACHE } from '../fleet/build-images.ts'
import { GATES, ROOT, runGate } from './gates.ts'

/**
 * `npm test`: the gates, the unit tests on Node 26 and Node 22, then everything that crosses parts.
 * The last line is `N passed, N failed, N skipped`. `npm test -- NAME` runs only files whose path contains NAME.
 * With `--whole` (`npm run test:machine`) only what virtual machines take too long for otherwise.
 */
const isWhole = process.argv[2] === '--whole'
const filters = process.argv.slice(isWhole ? 3 : 2)
const total = { passed: 0, failed: 0, skipped: 0 }
/** What failed and why, told again at the end: a log may be kept by its end only. */
const failures: string[] = []
const reports = join(CACHE, 'reports')
rmSync(reports, { recursive: true, force: true })
mkdirSync(reports, { recursive: true })
// Programs are started some thousand times: what V8 made of them is kept for the next start.
const compiled = join(CACHE, 'compiled')
rmSync(compiled, { recursive: true, force: true })
process.env['NODE_COMPILE_CACHE'] = compiled

if (filters.length === 0 && !isWhole) {
  for (const gate of GATES) {
    const { passed, output } = runGate(gate)
    process.stderr.write(`${passed ? 'ok    ' : 'FAILED'} ${gate.name}\n${passed ? '' : output}`)
    total[passed ? 'passed' : 'failed'] += 1
    if (!passed) failures.push(`gate: ${gate.name}\n${output}`)
  }
}
await buildImages((line) => process.stderr.write(`${line}\n`))
if (isWhole) {
  vitest('whole', process.execPath, filters)
} else {
  vitest('unit', process.execPath, filters)
  // What boards with 32 bits run; the builder runs on a workstation, and simulations decide nothing by the version of Node.
  const node22 = process.env['FLOTILLA_NODE_22'] ?? ''
  if (filters.length === 0) vitest('unit', node22, ['agent/', 'protocol/'])
  for (const project of ['machine', 'fleet', 'containers']) vitest(project, process.execPath, filters)
}
for (const failure of failures) process.stdout.write(`\nFAILED ${failure}\n`)
process.stdout.write(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped\n`)
process.exitCode = total.failed === 0 && (total.skipped === 0 || process.env['CI'] === undefined) ? 0 : 1

function vitest(project: string, node: string, names: readonly string[]): void {
  const version = spawnSync(node, ['--version'], { encoding: 'utf8' }).stdout?.trim() ?? 'no Node'
  process.stderr.write(`\n${project} tests on Node ${version}\n`)
  const report = join(reports, `${project}-${version}.json`)
  const args = [
    join(ROOT, 'node_modules/vitest/vitest.mjs'),
    'run',
    '--config',
    'test/setup/vitest.config.ts',
    '--project',
    project,
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
    '--passWithNoTests',
    ...names,
  ]
  const done = spawnSync(node, args, { stdio: ['ignore', 'inherit', 'inherit'], cwd: ROOT })
  const counts = existsSync(report) ? (JSON.parse(readFileSync(report, 'utf8')) as Report) : undefined
  total.passed += counts?.numPassedTests ?? 0
  total.skipped += counts?.numPendingTests ?? 0
  total.failed += counts?.numFailedTests ?? 0
  for (const file of counts?.testResults ?? []) {
    const where = `${relative(ROOT, file.name)} on Node ${version}`
    const failed = file.assertionResults.filter(({ status }) => status === 'failed')
    for (const test of failed) failures.push(`${where}: ${test.fullName}\n${test.failureMessages.join('\n')}`)
    // Not loaded, or not set up: its tests did not fail, they did not run.
    if (file.status === 'failed' && failed.length === 0)
      failures.push(`${where}\n${file.message || 'its set-up failed: see above'}`)
  }
  // A file that cannot be loaded has no failed test, yet it failed.
  if (done.status !== 0 && (counts?.numFailedTests ?? 0) === 0) {
    total.failed += 1
    failures.push(`${project} tests on Node ${version}: exit code ${done.status ?? done.signal}`)
  }
}

/** What vitest's JSON reporter writes, as far as it is read here. */
type Report = {
  readonly numPassedTests: number
  readonly numFailedTests: number
  readonly numPendingTests: number
  readonly testResults: readonly {
    readonly name: string
    readonly status: string
    readonly message: string
    readonly assertionResults: readonly {
      readonly status: string
      readonly fullName: string
      readonly failureMessages: readonly string[]
    }[]
  }[]
}
