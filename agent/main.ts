import { Command } from 'commander'
import { runCommandLine } from '../protocol/terminal/run-command.ts'
import { agentCommand } from './commands/agent-command.ts'
import { backupCommand } from './commands/backup-commands.ts'
import { coreCommand } from './commands/core-commands.ts'
import { DEFAULT_SOCKET, deviceCommands } from './commands/device-commands.ts'
import { persistCommand } from './commands/persist-command.ts'

const program = new Command('flotilla')
  .description('Flotilla on a device: keeps it current from its neighbours')
  .addCommand(agentCommand())
  .addCommand(persistCommand())
  .addCommand(coreCommand(DEFAULT_SOCKET))
  .addCommand(backupCommand(DEFAULT_SOCKET))
for (const command of deviceCommands()) program.addCommand(command)
await runCommandLine(program, process.argv)
