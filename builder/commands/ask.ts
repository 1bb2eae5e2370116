import { createInterface } from 'node:readline'
import { Writable } from 'node:stream'
import { FlotillaError } from '../../protocol/errors.ts'

/**
 * The passphrase of the keys: `FLOTILLA_PASSPHRASE`, or asked for on a terminal without echo.
 * @throws FlotillaError USAGE when there is neither
 */
export async function askPassphrase(what: string): Promise<string> {
  const given = process.env['FLOTILLA_PASSPHRASE']
  if (given !== undefined && given !== '') return given
  if (!process.stdin.isTTY)
    throw new FlotillaError('USAGE', `${what}: a passphrase is needed; set FLOTILLA_PASSPHRASE or run on a terminal`)
  process.stderr.write(`Passphrase for ${what}: `)
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() })
  const lines = createInterface({ input: process.stdin, output: silent, terminal: true })
  const passphrase = await new Promise<string>((resolve) => lines.question('', resolve))
  lines.close()
  process.stderr.write('\n')
  if (passphrase === '') throw new FlotillaError('USAGE', `${what}: the passphrase is empty`)
  return passphrase
}

/** Asks for yes on a terminal; `--yes` or no terminal with the flag goes on. */
export async function confirm(question: string, yes: boolean): Promise<void> {
  if (yes) return
  const answer = await ask(`${question} [y/N] `, `${question}: give --yes when there is no terminal to ask on`)
  if (!/^y(es)?$/i.test(answer)) throw new FlotillaError('USAGE', 'stopped: not confirmed')
}

/** One line from the terminal, without blanks around it. @throws FlotillaError USAGE with `ifNone` when there is no terminal */
export async function ask(question: string, ifNone: string): Promise<string> {
  if (!process.stdin.isTTY) throw new FlotillaError('USAGE', ifNone)
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  const answer = await new Promise<string>((resolve) => lines.question(question, resolve))
  lines.close()
  return answer.trim()
}
