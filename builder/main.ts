import { Command } from 'commander'
import { runCommandLine } from '../protocol/terminal/run-command.ts'
import { backupCommand, recoveryCommand } from './commands/backup-commands.ts'
import { brCommand, cmdCommand, compileCommand, configureCommand } from './commands/build-commands.ts'
import { containersCommand } from './commands/containers-commands.ts'
import { deviceCommand } from './commands/device-command.ts'
import { fleetCommand } from './commands/fleet-commands.ts'
import { compareCommand, imageCommand, legalInfoCommand, sbomCommand } from './commands/image-commands.ts'
import { keysCommand } from './commands/keys-commands.ts'
import { boardsCommand, layersCommand } from './commands/layers-commands.ts'
import { releaseCommand } from './commands/release-commands.ts'
import { seedCommand } from './commands/seed-command.ts'

const program = new Command('flotilla')
  .description('Flotilla on a workstation: make releases, hand them to one device, watch the fleet')
  .addCommand(fleetCommand())
  .addCommand(keysCommand())
  .addCommand(releaseCommand())
  .addCommand(containersCommand())
  .addCommand(deviceCommand())
  .addCommand(seedCommand())
  .addCommand(backupCommand())
  .addCommand(recoveryCommand())
  .addCommand(layersCommand())
  .addCommand(boardsCommand())
  .addCommand(configureCommand())
  .addCommand(compileCommand())
  .addCommand(brCommand())
  .addCommand(cmdCommand())
  .addCommand(imageCommand())
  .addCommand(sbomCommand())
  .addCommand(legalInfoCommand())
  .addCommand(compareCommand())
await runCommandLine(program, process.argv)
