import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'

/** Prints the niceness of the process and of its session, which is empty without autogroups and in the session of process 1. */
const TELL = `
import { existsSync, readFileSync } from 'node:fs'
import { getPriority } from 'node:os'
const file = '/proc/self/autogroup'
process.stdout.write(getPriority() + ' ' + (existsSync(file) ? readFileSync(file, 'latin1').trim() : ''))`
const YIELD = `
import { yieldToTheRobot } from ${JSON.stringify(join(import.meta.dirname, 'yield-to-the-robot.ts'))}
yieldToTheRobot(7)`

const run = (program: string, ...wrapper: readonly string[]) => {
  const [command, ...args] = [...wrapper, process.execPath, '--no-warnings', '--input-type=module', '--eval', program]
  return spawnSync(command, args, { encoding: 'utf8' }).stdout
}

describe('an agent', () => {
  it('stays behind all programs when it has a session of its own, and changes no session that it shares', () => {
    const shared = run(TELL)
    const usual = shared.split(' ')[0] ?? ''
    // The number differs for each session.
    const own = (text: string) => text.replace(/-\d+/, '-N')
    const before = own(run(TELL, 'setsid', '--wait'))
    const after = before.replace(new RegExp(`^${usual} `), '7 ').replace(/nice -?\d+$/, 'nice 7')
    expect(own(run(YIELD + TELL, 'setsid', '--wait'))).toBe(after)
    expect(run(YIELD + TELL)).toBe(shared.replace(new RegExp(`^${usual} `), '7 '))
    expect(run(TELL)).toBe(shared)
  })
})
