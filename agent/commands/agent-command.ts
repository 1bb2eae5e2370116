import { Command, Option } from 'commander'
import { LEVELS } from '../control/event-log.ts'
import type { RunOptions } from './run-agent.ts'

/** Exit code by which the agent asks its init to reboot; the loader of the directory family understands it. */
const REBOOT_EXIT_CODE = 42

/** `flotilla agent run`: runs the agent in the foreground. */
export function agentCommand(): Command {
  const run = new Command('run')
    .description('run the agent in the foreground')
    .requiredOption('--config <file>', 'agent.yaml')
    .option(
      '--slot <slot>',
      'the slot that booted (default: $FLOTILLA_SLOT, then flotilla.slot= on the kernel command line)',
    )
    .addOption(new Option('--log <level>', 'least level that is printed').choices(LEVELS).default('info'))
    .addHelpText('after', `\nThe agent ends with exit code ${REBOOT_EXIT_CODE} when the device has to reboot.`)
    .action(async (options: RunOptions) => {
      // Its network takes most of a start to load: other commands, of which one is at every boot, do without.
      const { runAgent } = await import('./run-agent.ts')
      const isRebooting = await runAgent(options)
      process.exit(isRebooting ? REBOOT_EXIT_CODE : 0)
    })
  return new Command('agent').description('the agent of this device').addCommand(run)
}
