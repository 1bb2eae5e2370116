import { spawn } from 'node:child_process'
import { constants } from 'node:fs'
import { access, readdir } from 'node:fs/promises'
import { join } from 'node:path'

/** Outcome of one check. `log` is the tail of what it printed. */
export type CheckResult = {
  readonly name: string
  readonly must: boolean
  readonly passed: boolean
  readonly reason: string
  readonly log: string
}

const LOG_CHARACTERS = 2_000

/**
 * Runs the executables of `<directory>/required.d` and `<directory>/wanted.d` in the order of their names
 * (greenboot's layout). A check passes when it exits 0 within its time; what it starts is killed with it.
 * @param timeoutMs - time of each single check
 */
export async function runCheckDirectory(
  directory: string,
  timeoutMs: number,
  environment: Readonly<Record<string, string>>,
): Promise<readonly CheckResult[]> {
  const results: CheckResult[] = []
  for (const [folder, must] of [
    ['required.d', true],
    ['wanted.d', false],
  ] as const) {
    for (const name of await executables(join(directory, folder))) {
      const run = await runOne(join(directory, folder, name), timeoutMs, environment)
      results.push({ name: `${folder}/${name}`, must, ...run })
    }
  }
  return results
}

async function executables(directory: string): Promise<string[]> {
  const names = await readdir(directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw error
  })
  const found: string[] = []
  for (const name of names.sort()) {
    const runs = await access(join(directory, name), constants.X_OK).then(
      () => true,
      () => false,
    )
    if (runs) found.push(name)
  }
  return found
}

function runOne(
  path: string,
  timeoutMs: number,
  environment: Readonly<Record<string, string>>,
): Promise<Pick<CheckResult, 'passed' | 'reason' | 'log'>> {
  return new Promise((resolve) => {
    let log = ''
    const child = spawn(path, [], {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      env: { ...process.env, ...environment },
    })
    const collect = (data: Buffer) => {
      log = (log + data.toString('utf8')).slice(-LOG_CHARACTERS)
    }
    child.stdout.on('data', collect)
    child.stderr.on('data', collect)
    const timer = setTimeout(() => {
      killGroup(child.pid)
      resolve({ passed: false, reason: `took longer than ${timeoutMs / 1000} s`, log })
    }, timeoutMs)
    child.on('error', (error) => {
      clearTimeout(timer)
      resolve({ passed: false, reason: error.message, log })
    })
    child.on('exit', (code, signal) => {
      clearTimeout(timer)
      resolve({ passed: code === 0, reason: code === 0 ? '' : `exit ${code ?? signal}`, log })
    })
  })
}

function killGroup(pid: number | undefined): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL')
  } catch {
    // it ended in the meantime
  }
}
