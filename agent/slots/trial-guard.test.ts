import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { endTrialGuard } from './trial-guard.ts'

let processes: string

beforeEach(() => {
  processes = mkdtempSync(join(tmpdir(), 'flotilla-guard-'))
  mkdirSync(join(processes, '1'))
})
afterEach(() => rmSync(processes, { recursive: true, force: true }))

/** A process that waits, and how /proc shows it. */
function startProcess(name: string): ReturnType<typeof spawn> {
  const child = spawn('sleep', ['30'])
  mkdirSync(join(processes, String(child.pid)))
  writeFileSync(join(processes, String(child.pid), 'comm'), `${name}\n`)
  writeFileSync(join(processes, '1/environ'), `HOME=/\0FLOTILLA_GUARD=${child.pid}\0TERM=linux\0`)
  return child
}

it('ends the guard that the initramfs left', async () => {
  const guard = startProcess('flotilla-guard')
  expect(await endTrialGuard(processes)).toBe(true)
  expect(await once(guard, 'exit')).toEqual([null, 'SIGTERM'])
})

it('leaves another process that has its number by now', async () => {
  const other = startProcess('sshd')
  try {
    expect(await endTrialGuard(processes)).toBe(false)
    expect(other.exitCode ?? other.signalCode).toBe(null)
  } finally {
    other.kill('SIGKILL')
  }
})

it('finds none in a boot that is not on trial, and none that ended', async () => {
  writeFileSync(join(processes, '1/environ'), 'HOME=/\0')
  expect(await endTrialGuard(processes)).toBe(false)
  writeFileSync(join(processes, '1/environ'), 'FLOTILLA_GUARD=12345\0')
  expect(await endTrialGuard(processes)).toBe(false)
})
