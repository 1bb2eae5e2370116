import { GATES, runGate } from './gates.ts'

let failed = 0
for (const gate of GATES) {
  const { passed, output } = runGate(gate)
  process.stderr.write(`${passed ? 'ok    ' : 'FAILED'} ${gate.name}\n${passed ? '' : output}`)
  if (!passed) failed += 1
}
process.exitCode = failed === 0 ? 0 : 1
