import { Command } from 'commander'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { parseAgentConfig } from '../config.ts'
import { EventLog, type Level } from '../control/event-log.ts'
import { Agent } from '../daemon.ts'
import { BootArea } from '../store/boot-area.ts'

/** Exit code by which the agent asks its init to reboot; the loader of the directory family understands it. */
export const REBOOT_EXIT_CODE = 42

/** systemd passes its content to the reboot system call (systemd, `man systemctl`, --reboot-argument=). */
const REBOOT_ARGUMENT_FILE = '/run/systemd/reboot-param'

const LEVELS: readonly Level[] = ['error', 'warn', 'info', 'debug']

/** `flotilla agent run`: runs the agent in the foreground. */
export function agentCommand(): Command {
  const run = new Command('run')
    .description('run the agent in the foreground')
    .requiredOption('--config <file>', 'agent.yaml')
    .option(
      '--slot <slot>',
      'the slot that booted (default: $FLOTILLA_SLOT, then flotilla.slot= on the kernel command line)',
    )
    .option('--log <level>', `least level that is printed: ${LEVELS.join(', ')}`, 'info')
    .addHelpText('after', `\nThe agent ends with exit code ${REBOOT_EXIT_CODE} when the device has to reboot.`)
    .action(async (options: { config: string; slot?: string; log: string }) => {
      const config = parseAgentConfig(readText(options.config), options.config)
      const shown = LEVELS.indexOf(options.log as Level)
      const log = new EventLog(join(config.persist, 'log'), (event) => {
        if (LEVELS.indexOf(event.level) <= shown) process.stderr.write(`${JSON.stringify(event)}\n`)
      })
      const slot = bootedSlot(options.slot)
      const boot = await BootArea.open(config.boot)
      const repaired = await boot.repair()
      if (repaired !== '') log.add('warn', 'boot-area-repaired', { was: repaired })
      const agent = new Agent(config, boot, slot, log)
      process.on('SIGTERM', () => agent.stop())
      process.on('SIGINT', () => agent.stop())
      // A library's stray rejection must not take the robot's updates down unnoticed: say it, end, be restarted.
      process.on('uncaughtException', (error) => {
        log.add('error', 'crashed', { error: messageOf(error), stack: String(error.stack).slice(0, 1_000) })
        process.exit(1)
      })
      const end = await agent.run()
      if (end.argument !== undefined) writeFileSync(REBOOT_ARGUMENT_FILE, end.argument)
      process.exit(end.reboot ? REBOOT_EXIT_CODE : 0)
    })
  return new Command('agent').description('the agent of this device').addCommand(run)
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (cause) {
    throw new FlotillaError('BAD_CONFIG', `read ${path}: ${messageOf(cause)}`, { cause })
  }
}

function bootedSlot(given: string | undefined): string {
  const slot =
    given ??
    process.env['FLOTILLA_SLOT'] ??
    /flotilla\.slot=([0-9a-f]{16})/.exec(readFileSync('/proc/cmdline', 'latin1'))?.[1]
  if (slot === undefined || !/^[0-9a-f]{16}$/.test(slot)) {
    throw new FlotillaError(
      'BAD_CONFIG',
      'start: which slot booted? Give --slot, FLOTILLA_SLOT or flotilla.slot= on the kernel command line (16 hexadecimal digits)',
    )
  }
  return slot
}
