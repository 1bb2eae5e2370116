import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { parseAgentConfig } from '../config.ts'
import { EventLog, LEVELS, type Level } from '../control/event-log.ts'
import { Agent } from '../daemon.ts'
import { BootArea } from '../store/boot-area.ts'

/** systemd passes its content to the reboot system call (systemd, `man systemctl`, --reboot-argument=). */
const REBOOT_ARGUMENT_FILE = '/run/systemd/reboot-param'

/** Options of `flotilla agent run`. */
export type RunOptions = {
  readonly config: string
  readonly slot?: string
  /** The least level that is printed. */
  readonly log: Level
}

/** Runs the agent until it is told to stop or has to reboot. @returns whether it has to */
export async function runAgent(options: RunOptions): Promise<boolean> {
  const config = parseAgentConfig(readText(options.config), options.config)
  const shown = LEVELS.indexOf(options.log)
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
  return end.reboot
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
