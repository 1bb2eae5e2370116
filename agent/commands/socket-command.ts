import { Command } from 'commander'

/** Options of every command that asks the running agent. */
export type SocketOptions = { readonly socket: string; readonly json?: boolean }

/** A command that asks the running agent. @param socket - where it listens unless the person says otherwise */
export function socketCommand(name: string, description: string, socket: string): Command {
  return new Command(name)
    .description(description)
    .option('--socket <path>', 'the socket of the agent', socket)
    .option('--json', 'machine-readable output')
}
