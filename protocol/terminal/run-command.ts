import { type Command, CommanderError } from 'commander'
import { EXIT_CODES, FlotillaError, messageOf } from '../errors.ts'

/**
 * Runs a command line and ends the process with the exit code of the table in errors.ts. A person's mistake gets
 * one line and no stack; with `--json` the failure is an object on stdout.
 */
export async function runCommandLine(program: Command, argv: readonly string[]): Promise<void> {
  // An option belongs to the command it stands behind: `fleet` and `fleet init` both know --repo.
  program.exitOverride().enablePositionalOptions().showSuggestionAfterError()
  for (const command of allCommands(program)) command.exitOverride().enablePositionalOptions()
  try {
    await program.parseAsync([...argv])
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : EXIT_CODES.USAGE
      return
    }
    const code = error instanceof FlotillaError ? error.code : 'UNEXPECTED'
    if (argv.includes('--json'))
      process.stdout.write(`${JSON.stringify({ error: { code, message: messageOf(error) } })}\n`)
    else process.stderr.write(`flotilla: ${messageOf(error)} [${code}]\n`)
    if (code === 'UNEXPECTED' && error instanceof Error)
      process.stderr.write(`${error.stack}\nThis is a defect in Flotilla; please report it with the lines above.\n`)
    process.exitCode = EXIT_CODES[code]
  }
}

function allCommands(command: Command): Command[] {
  return [...command.commands, ...command.commands.flatMap(allCommands)]
}
