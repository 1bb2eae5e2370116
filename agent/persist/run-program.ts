import { execFile } from 'node:child_process'
import { FlotillaError } from '../../protocol/errors.ts'

/**
 * Runs a program to its end, within a bound.
 * @param okCodes - exit codes that are no failure
 * @returns what it printed
 * @throws FlotillaError DISK_FAILED with its last words, NOT_FOUND when it is not installed, TIMEOUT
 */
export function runProgram(
  program: string,
  args: readonly string[],
  { okCodes = [0], timeoutMs = 60_000, input = '' } = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile(program, args, { timeout: timeoutMs, killSignal: 'SIGKILL' }, (error, stdout, stderr) => {
      const what = `${program} ${args.join(' ')}`
      if (error === null || (typeof error.code === 'number' && okCodes.includes(error.code))) resolve(stdout)
      else if ((error.code as unknown) === 'ENOENT')
        reject(new FlotillaError('NOT_FOUND', `${what}: the image has no ${program}`, { cause: error }))
      else if (error.killed === true)
        reject(new FlotillaError('TIMEOUT', `${what}: not done after ${timeoutMs / 1_000} s`, { cause: error }))
      else {
        const words = `${stderr}\n${stdout}`.trim().split('\n')[0] ?? ''
        reject(
          new FlotillaError('DISK_FAILED', `${what}: ${words === '' ? `ended with ${error.code}` : words}`, {
            cause: error,
            details: { exitCode: error.code },
          }),
        )
      }
    })
    child.stdin?.on('error', () => {}) // it ended before it had read all: its exit code says why
    child.stdin?.end(input)
  })
}
