import { spawn } from 'node:child_process'
import { FlotillaError } from '../../protocol/errors.ts'

/** A program that does not end when it is asked to is ended after this. */
const GRACE_MS = 10_000
/** Of what it prints; `e2fsck` can say a lot. */
const MAX_OUTPUT = 65_536

/**
 * Runs a program to its end, within a bound: then it is asked to end, so that one that writes to a disk can finish what it is
 * in the middle of.
 * @param okCodes - exit codes that are no failure
 * @returns what it printed, the first 64 KiB
 * @throws FlotillaError DISK_FAILED with its first words, NOT_FOUND when it is not installed, TIMEOUT
 */
export function runProgram(
  program: string,
  args: readonly string[],
  { okCodes = [0], timeoutMs = 60_000, input = '' } = {},
): Promise<string> {
  const what = `${program} ${args.join(' ')}`
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] })
    let out = ''
    let words = ''
    let late = false
    let kill: NodeJS.Timeout | undefined
    const timer = setTimeout(() => {
      late = true
      child.kill('SIGTERM')
      kill = setTimeout(() => child.kill('SIGKILL'), GRACE_MS)
    }, timeoutMs)
    child.stdout.setEncoding('utf8').on('data', (part: string) => (out = (out + part).slice(0, MAX_OUTPUT)))
    child.stderr.setEncoding('utf8').on('data', (part: string) => (words = (words + part).slice(0, MAX_OUTPUT)))
    child.stdin.on('error', () => {}) // it ended before it had read all: its exit code says why
    child.stdin.end(input)
    const ended = () => {
      clearTimeout(timer)
      clearTimeout(kill)
    }
    child.once('error', (cause) => {
      ended()
      reject(new FlotillaError('NOT_FOUND', `${what}: the image has no ${program}`, { cause }))
    })
    child.once('close', (code) => {
      ended()
      if (late) reject(new FlotillaError('TIMEOUT', `${what}: not done after ${timeoutMs / 1_000} s`))
      else if (code !== null && okCodes.includes(code)) resolve(out)
      else {
        const said = `${words}\n${out}`.trim().split('\n')[0] ?? ''
        reject(new FlotillaError('DISK_FAILED', `${what}: ${said === '' ? `ended with ${code}` : said}`))
      }
    })
  })
}
