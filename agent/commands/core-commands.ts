import { Command } from 'commander'
import { FlotillaError } from '../../protocol/errors.ts'
import { formatRows } from '../../protocol/terminal/print.ts'
import { askAgent } from '../control/local-api.ts'
import type { CoreStatus } from '../core/reconciler.ts'
import type { UserStatus } from '../login/open-users.ts'
import { type SocketOptions, socketCommand } from './socket-command.ts'

/** `flotilla core`: the containers of this device, as `skiff-core.yaml` says and as Docker has them. */
export function coreCommand(socket: string): Command {
  const command = (name: string, description: string) => socketCommand(name, description, socket)
  const told = (options: SocketOptions, answer: unknown) => {
    if (options.json === true) process.stdout.write(`${JSON.stringify(answer)}\n`)
  }
  return new Command('core')
    .description('the containers of this device')
    .addCommand(
      command('status', 'how each container stands').action(async (options: SocketOptions) => {
        print((await askAgent(options.socket, 'GET', '/core')) as CoreStatus, options, false)
      }),
    )
    .addCommand(
      command('plan', 'what would be done now, step by step; nothing is done').action(
        async (options: SocketOptions) => {
          print((await askAgent(options.socket, 'GET', '/core/plan')) as CoreStatus, options, true)
        },
      ),
    )
    .addCommand(
      command('retry', 'try a container again whose new form did not come up')
        .argument('<container>')
        .action(async (container: string, options: SocketOptions) => {
          told(options, await askAgent(options.socket, 'POST', '/core/retry', { container }))
        }),
    )
    .addCommand(
      command('adopt', 'take over a container that something else made; it is replaced by the one of the file')
        .argument('<container>')
        .action(async (container: string, options: SocketOptions) => {
          told(options, await askAgent(options.socket, 'POST', '/core/adopt', { container }))
        }),
    )
    .addCommand(
      command('hold', 'keep a container from being stopped or replaced for a while')
        .argument('<container>')
        .argument('[reason]', 'what it is busy with')
        .option('--minutes <n>', 'how long', '60')
        .option('--release', 'end the hold with this reason, or all of them')
        .addHelpText(
          'after',
          '\nExamples:\n  flotilla core hold arm "grasping" --minutes 5\n  flotilla core hold arm --release\nA container with `updateLock: /run/flotilla` may write /run/flotilla/hold itself: line 1 the reason, line 2 `seconds: N`.',
        )
        .action(
          async (
            container: string,
            reason: string | undefined,
            options: SocketOptions & { minutes: string; release?: boolean },
          ) => {
            if (options.release === true)
              return told(options, await askAgent(options.socket, 'POST', '/core/release-hold', { container, reason }))
            if (reason === undefined)
              throw new FlotillaError('USAGE', 'core hold: say what it is busy with: flotilla core hold NAME REASON')
            const seconds = Math.round(Number(options.minutes) * 60)
            told(options, await askAgent(options.socket, 'POST', '/core/hold', { container, reason, seconds }))
          },
        ),
    )
}

function print(
  status: CoreStatus & { users?: readonly UserStatus[] },
  options: SocketOptions,
  withSteps: boolean,
): void {
  if (options.json === true) return void process.stdout.write(`${JSON.stringify(status, null, 2)}\n`)
  for (const warning of status.warnings) process.stderr.write(`warning: ${warning}\n`)
  if (status.problem !== '') process.stderr.write(`${status.problem} [${status.code}]\n`)
  if (status.file === '' && status.problem === '')
    return void process.stdout.write('no skiff-core.yaml: neither the device nor its release has one\n')
  process.stdout.write(
    formatRows(status.containers, [
      ['CONTAINER', ({ name }) => name],
      ['STATE', ({ state }) => state],
      ['DOCKER', ({ docker, health }) => (health === 'none' ? docker : `${docker}, ${health}`)],
      ['IMAGE', ({ image }) => image],
      ['NOTE', ({ reason }) => reason],
    ]),
  )
  if ((status.users ?? []).length > 0)
    process.stdout.write(
      `\n${formatRows(status.users ?? [], [
        ['USER', ({ name }) => name],
        ['LOGS INTO', ({ container }) => container],
        ['NOTE', ({ problem }) => problem],
      ])}`,
    )
  if (!withSteps) return
  for (const { name, steps } of status.containers)
    if (steps.length > 0) process.stdout.write(`${name}:\n${steps.map((step) => `  ${step}\n`).join('')}`)
}
