import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'

/** Prints the niceness of the process and that of its session, empty without autogroups and in the session of process 1. */
const TELL = `
import { existsSync, readFileSync } from 'node:fs'
import { getPriority } from 'node:os'
const file = '/proc/self/autogroup'
const session = existsSync(file) ? readFileSync(file, 'latin1').trim() : ''
process.stdout.write(JSON.stringify({ nice: getPriority(), session }))`
const YIELD = `
import { yieldToTheRobot } from ${JSON.stringify(join(import.meta.dirname, 'yield-to-the-robot.ts'))}
yieldToTheRobot(7)`

const run = (program: string, ...wrapper: readonly string[]) => {
  const [command, ...args] = [...wrapper, process.execPath, '--no-warnings', '--input-type=module', '--eval', program]
  const { stdout } = spawnSync(command, args, { encoding: 'utf8' })
  return JSON.parse(stdout) as { readonly nice: number; readonly session: string }
}
/** In a session of its own, whose number differs each time. */
const runAlone = (program: string) => {
  const { nice, session } = run(program, 'setsid', '--wait')
  return { nice, session: session.replace(/-\d+/, '-N') }
}

describe('an agent', () => {
  it('stays behind all programs when it has a session of its own, and changes no session that it shares', () => {
    const alone = runAlone(TELL)
    expect(runAlone(YIELD + TELL)).toEqual({ nice: 7, session: alone.session.replace(/nice -?\d+$/, 'nice 7') })
    const shared = run(TELL)
    expect(run(YIELD + TELL)).toEqual({ ...shared, nice: 7 })
    expect(run(TELL)).toEqual(shared)
  })
})
