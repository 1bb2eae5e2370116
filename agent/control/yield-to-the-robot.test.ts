import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'

const AUTOGROUP = '/proc/self/autogroup'
const program = `
import { existsSync, readFileSync } from 'node:fs'
import { getPriority } from 'node:os'
import { yieldToTheRobot } from ${JSON.stringify(join(import.meta.dirname, 'yield-to-the-robot.ts'))}
yieldToTheRobot(7)
const group = existsSync('${AUTOGROUP}') ? readFileSync('${AUTOGROUP}', 'latin1') : ''
process.stdout.write(getPriority() + ' ' + group)`

const run = (...wrapper: readonly string[]) => {
  const [command, ...args] = [...wrapper, process.execPath, '--no-warnings', '--input-type=module', '--eval', program]
  return spawnSync(command, args, { encoding: 'utf8' }).stdout
}

describe('an agent', () => {
  it('stays behind all programs when it has a session of its own, and changes no session that it shares', () => {
    const shared = existsSync(AUTOGROUP) ? readFileSync(AUTOGROUP, 'latin1') : ''
    expect(run('setsid', '--wait')).toMatch(shared === '' ? /^7 $/ : /^7 \/autogroup-\d+ nice 7\n$/)
    expect(run()).toBe(`7 ${shared}`)
    expect(existsSync(AUTOGROUP) ? readFileSync(AUTOGROUP, 'latin1') : '').toBe(shared)
  })
})
