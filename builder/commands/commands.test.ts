import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { runCommandLine } from '../../protocol/terminal/run-command.ts'
import { fleetCommand } from './fleet-commands.ts'
import { releaseCommand } from './release-commands.ts'

const directory = mkdtempSync(join(tmpdir(), 'flotilla-commands-'))
afterAll(() => rmSync(directory, { recursive: true }))
afterEach(() => {
  process.exitCode = 0
})

/** Runs a command line in this process. @returns the exit code it asks for */
async function flotilla(...args: string[]): Promise<number> {
  const program = new Command('flotilla').addCommand(fleetCommand()).addCommand(releaseCommand())
  process.exitCode = 0
  await runCommandLine(program, ['node', 'flotilla', ...args])
  return Number(process.exitCode)
}

describe('the command line', () => {
  it('gives an option to the command it stands behind', async () => {
    process.env['FLOTILLA_PASSPHRASE'] = 'x'
    const repo = join(directory, 'repo')
    expect(await flotilla('fleet', 'init', '--name', 'demo', '--dev', '--repo', repo)).toBe(0)
    expect(existsSync(join(repo, 'metadata/timestamp.json'))).toBe(true)
    expect(await flotilla('release', 'list', '--repo', repo)).toBe(0)
  })

  it('ends a mistake with the code of the table', async () => {
    expect(await flotilla('release', 'list', '--repo', join(directory, 'none'))).toBe(4)
    expect(await flotilla('release', 'show')).toBe(2)
    expect(await flotilla('fleet', 'init', '--name', 'Not Plain', '--dev', '--repo', join(directory, 'x'))).toBe(2)
  })
})
