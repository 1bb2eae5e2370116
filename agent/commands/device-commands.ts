import type { Command } from 'commander'
import { FlotillaError } from '../../protocol/errors.ts'
import type { FleetRow } from '../../protocol/gossip/fleet-rows.ts'
import { fleetTable } from '../../protocol/terminal/fleet-table.ts'
import { formatBytes, LiveView, printRows } from '../../protocol/terminal/print.ts'
import { shape } from '../../protocol/shape.ts'
import { askAgent } from '../control/local-api.ts'
import { type SocketOptions, socketCommand } from './socket-command.ts'

/** Where the agent of this device listens. */
export const DEFAULT_SOCKET = process.env['FLOTILLA_SOCKET'] ?? '/run/flotilla/agent.sock'
type Json = Readonly<Record<string, unknown>>

/** Commands that a person types on a device; all of them ask the running agent. */
export function deviceCommands(): Command[] {
  return [
    statusCommand(),
    peersCommand(),
    eventsCommand(),
    releasesCommand(),
    fleetCommand(),
    rollbackCommand(),
    holdCommand(),
    limitCommand(),
  ]
}

function command(name: string, description: string): Command {
  return socketCommand(name, description, DEFAULT_SOCKET)
}

function statusCommand(): Command {
  return command('status', 'what this device runs, fetches and waits for')
    .addHelpText('after', '\nExample:\n  flotilla status --json | jq .state')
    .action(async (options: SocketOptions) => {
      const status = shape.object(await askAgent(options.socket, 'GET', '/status'), 'status')
      if (options.json === true) return void process.stdout.write(`${JSON.stringify(status, null, 2)}\n`)
      process.stdout.write(statusText(status))
    })
}

function statusText(status: Json): string {
  const running = status['running'] as Json | null
  const next = status['next'] as Json | null
  const trust = shape.object(status['trust'], 'status.trust')
  const failed = shape.array(status['failed'], 'status.failed', 64) as readonly Json[]
  const halted = shape.array(status['halted'], 'status.halted', 64) as readonly Json[]
  const limits = shape.array(status['limits'], 'status.limits', 64)
  const lines = [
    ['device', `${status['name']} (${status['board']}, channel ${status['channel']}, fleet ${status['fleet']})`],
    ['id', status['device']],
    ['state', status['state']],
    [
      'runs',
      running === null
        ? 'an unreadable release'
        : `${running['version']} (${String(running['id']).slice(0, 16)}, seq ${running['seq']})`,
    ],
    ...(next === null ? [] : [['next', `${next['version']}: ${next['percent']} % here`]]),
    ...(status['waitingFor'] === '' ? [] : [['waits for', status['waitingFor']]]),
    ...limits.map((limit) => ['limited', limit]),
    ...halted.map((entry) => ['halted', `${String(entry['id']).slice(0, 16)}: ${entry['reason']}`]),
    ...failed.map((entry) => ['failed', `${entry['version']}: ${entry['reason']}`]),
    [
      'trust',
      `root ${trust['root']}, timestamp ${trust['timestamp']}, time floor ${trust['floor']}${trust['stale'] === true ? `, stale for ${trust['staleDays']} days` : ''}`,
    ],
    ...(status['containers'] === '' ? [] : [['containers', status['containers']]]),
    ['peers', status['peers']],
    [
      'traffic',
      `${formatBytes(Number(status['fetchedBytes']))} fetched, ${formatBytes(Number(status['servedBytes']))} given; ${formatBytes(Number(status['todayBytes']))} today`,
    ],
  ]
  return lines.map(([key, value]) => `${String(key).padEnd(10)} ${String(value)}\n`).join('')
}

function peersCommand(): Command {
  return command('peers', 'members this device is connected to').action(async (options: SocketOptions) => {
    const peers = (await askAgent(options.socket, 'GET', '/peers')) as readonly Json[]
    printRows(
      peers,
      [
        ['NAME', (peer) => String(peer['name'])],
        ['BOARD', (peer) => String(peer['board'])],
        ['ADDRESS', (peer) => String(peer['address'])],
        ['RADIO HOPS', (peer) => String(peer['radioHops'])],
        ['ID', (peer) => String(peer['id'])],
      ],
      options,
    )
  })
}

function eventsCommand(): Command {
  return command('events', 'history of this device').action(async (options: SocketOptions) => {
    const events = (await askAgent(options.socket, 'GET', '/events')) as readonly Json[]
    printRows(
      events,
      [
        ['AT', (event) => String(event['at'])],
        ['LEVEL', (event) => String(event['level'])],
        ['EVENT', (event) => String(event['event'])],
        ['FIELDS', (event) => JSON.stringify(event['fields'])],
      ],
      options,
    )
  })
}

function releasesCommand(): Command {
  return command('releases', 'releases on this device, own and carried').action(async (options: SocketOptions) => {
    const releases = (await askAgent(options.socket, 'GET', '/releases')) as readonly Json[]
    printRows(
      releases,
      [
        ['ID', (row) => String(row['id']).slice(0, 16)],
        ['BOARD', (row) => String(row['board'])],
        ['VERSION', (row) => String(row['version'])],
        ['SEQ', (row) => String(row['seq'])],
        ['SIZE', (row) => formatBytes(Number(row['bytes']))],
        ['WHERE', (row) => String(row['where'])],
        [
          '',
          (row) =>
            [
              row['running'] === true ? 'running' : '',
              row['proven'] === true ? 'proven' : '',
              row['percent'] === 100 ? '' : `${row['percent']} %`,
              String(row['problem'] ?? ''),
            ]
              .filter(Boolean)
              .join(', '),
        ],
      ],
      options,
    )
  })
}

function fleetCommand(): Command {
  return command('fleet', 'every device of the fleet as last heard here')
    .option('--watch', 'go on showing changes until interrupted')
    .action(async (options: SocketOptions & { watch?: boolean }) => {
      const view = new LiveView()
      for (;;) {
        const rows = (await askAgent(options.socket, 'GET', '/fleet')) as readonly FleetRow[]
        if (options.json === true)
          process.stdout.write(`${JSON.stringify(rows, null, options.watch === true ? 0 : 2)}\n`)
        else if (options.watch === true) view.draw(fleetTable(rows).trimEnd().split('\n'))
        else process.stdout.write(fleetTable(rows))
        if (options.watch !== true) return
        await new Promise((resolve) => setTimeout(resolve, 1_000))
      }
    })
}

function rollbackCommand(): Command {
  return command('rollback', 'go back to the other proven release; the one that runs is not tried again')
    .requiredOption('--reason <text>', 'why; the fleet is told')
    .action(async (options: SocketOptions & { reason: string }) => {
      const answer = await askAgent(options.socket, 'POST', '/rollback', { reason: options.reason })
      process.stdout.write(
        `${options.json === true ? JSON.stringify(answer) : `rebooting into ${String((answer as Json)['to'])}`}\n`,
      )
    })
}

function holdCommand(): Command {
  return command('hold', 'keep this device from rebooting for a while')
    .argument('[reason]', 'what it is busy with')
    .option('--minutes <n>', 'how long', '60')
    .option('--release', 'end the hold with this reason, or all of them')
    .addHelpText(
      'after',
      '\nExamples:\n  flotilla hold "carrying a load" --minutes 15\n  flotilla hold --release\nA program may write the file named by holdFile instead: line 1 the reason, line 2 `seconds: N`.',
    )
    .action(async (reason: string | undefined, options: SocketOptions & { minutes: string; release?: boolean }) => {
      if (options.release === true) {
        await askAgent(options.socket, 'POST', '/release-hold', reason === undefined ? undefined : { reason })
        return
      }
      if (reason === undefined)
        throw new FlotillaError('USAGE', 'hold: say what the device is busy with: flotilla hold REASON')
      await askAgent(options.socket, 'POST', '/hold', { reason, seconds: Math.round(Number(options.minutes) * 60) })
    })
}

function limitCommand(): Command {
  return command('limit', 'slow down what this device sends and receives for a while')
    .argument('[kibPerSecond]', 'KiB per second in each direction; 0 stops chunks altogether')
    .argument('[reason]', 'what the link is needed for', 'by hand')
    .option('--minutes <n>', 'how long', '60')
    .option('--release [reason]', 'end the limit with this reason, or all of them')
    .addHelpText(
      'after',
      `
Examples:
  flotilla limit 200 teleoperation --minutes 10
  flotilla limit --release
News, signed metadata and halts are never limited. A program may write the file named by trafficFile instead: line 1 KiB
per second, line 2 the reason; the limit holds while the file exists.`,
    )
    .action(
      async (
        rate: string | undefined,
        reason: string,
        options: SocketOptions & { minutes: string; release?: boolean | string },
      ) => {
        if (options.release !== undefined) {
          const body = typeof options.release === 'string' ? { reason: options.release } : undefined
          return void (await askAgent(options.socket, 'POST', '/release-limit', body))
        }
        if (rate === undefined || !/^\d+$/.test(rate))
          throw new FlotillaError('USAGE', 'limit: say how many KiB per second, such as `flotilla limit 200`')
        const seconds = Math.round(Number(options.minutes) * 60)
        await askAgent(options.socket, 'POST', '/limit', { reason, kibPerSecond: Number(rate), seconds })
      },
    )
}
