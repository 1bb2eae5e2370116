import { Command } from 'commander'
import { setTimeout as pause } from 'node:timers/promises'
import { type ErrorCode, EXIT_CODES, FlotillaError } from '../../protocol/errors.ts'
import { bar, formatAge, formatBytes, formatRows, LiveView, printRows } from '../../protocol/terminal/print.ts'
import { askAgent } from '../control/local-api.ts'
import type { ContainerBackup } from '../backup/choose-backup.ts'
import type { Job } from '../backup/job-list.ts'
import type { BackupsView } from '../backup/open-backups.ts'
import { type SocketOptions, socketCommand } from './socket-command.ts'

const POLL_MS = 300

/** `flotilla backup`: the backups of this device's containers, and what it holds of other devices'. */
export function backupCommand(socket: string): Command {
  const command = (name: string, description: string) => socketCommand(name, description, socket)
  return new Command('backup')
    .description('backups of the containers of this device, and replicas of others')
    .addCommand(
      command('status', 'when each container was backed up last, where copies are, what is held for others').action(
        async (options: SocketOptions) =>
          print((await askAgent(options.socket, 'GET', '/backup')) as BackupsView, options),
      ),
    )
    .addCommand(
      command('now', 'back up a container, or all that have a policy')
        .argument('[container]')
        .addHelpText('after', '\nExample:\n  flotilla backup now nav')
        .action(async (container: string | undefined, options: SocketOptions) => {
          const jobs = (await askAgent(options.socket, 'POST', '/backup/now', { container })) as readonly Job[]
          await follow(jobs, options)
        }),
    )
    .addCommand(
      command('list', 'backups of this device, oldest first')
        .argument('[container]')
        .action(async (container: string | undefined, options: SocketOptions) => {
          const found = (await askAgent(options.socket, 'POST', '/backup/list', { container })) as ContainerBackup[]
          printRows(
            found,
            [
              ['ID', ({ id }) => id.slice(0, 8)],
              ['TIME', ({ time }) => time.slice(0, 19).replace('T', ' ')],
              ['CONTAINER', (row) => row.container],
            ],
            options,
          )
        }),
    )
    .addCommand(
      command('verify', 'check the repository of this device')
        .option('--read-data', 'read and decrypt every pack as well')
        .action(async (options: SocketOptions & { readData?: boolean }) => {
          const body = { readData: options.readData === true }
          await follow([(await askAgent(options.socket, 'POST', '/backup/verify', body)) as Job], options)
        }),
    )
    .addCommand(
      command('diff', 'what changed between two backups')
        .argument('<older>', 'beginning of its id, or a time')
        .argument('[newer]', 'the same; the newest when left out', 'latest')
        .action(async (older: string, newer: string, options: SocketOptions) => {
          await follow([(await askAgent(options.socket, 'POST', '/backup/diff', { older, newer })) as Job], options)
        }),
    )
    .addCommand(
      command('restore', 'put a container back as it was; what is there now is kept until the restored one runs')
        .argument('<container>')
        .option('--at <time>', 'a time, or the beginning of an id; the newest when left out')
        .option('--mounts-only', 'volumes and bind mounts alone, with the file system of the image')
        .addHelpText(
          'after',
          '\nExamples:\n  flotilla backup restore nav\n  flotilla backup restore nav --at 2026-11-20T12:00\n  flotilla backup restore nav --at 4f1c2a90 --mounts-only',
        )
        .action(async (container: string, options: SocketOptions & { at?: string; mountsOnly?: boolean }) => {
          const body = { container, at: options.at, mountsOnly: options.mountsOnly === true }
          await follow([(await askAgent(options.socket, 'POST', '/backup/restore', body)) as Job], options)
        }),
    )
}

/** Shows jobs until all have ended. @throws FlotillaError the first failure */
async function follow(jobs: readonly Job[], options: SocketOptions): Promise<void> {
  const view = new LiveView()
  let current = jobs
  for (;;) {
    current = await Promise.all(
      current.map(async (job) => (await askAgent(options.socket, 'POST', '/backup/job', { id: job.id })) as Job),
    )
    if (options.json !== true) view.draw(current.map(lineOf))
    if (current.every(({ state }) => state === 'done' || state === 'failed')) break
    await pause(POLL_MS)
  }
  if (options.json === true) process.stdout.write(`${JSON.stringify(current, null, 2)}\n`)
  else for (const { kind, result } of current) if (kind === 'diff') process.stdout.write(result)
  const failed = current.find(({ state }) => state === 'failed')
  if (failed !== undefined)
    throw new FlotillaError(failed.code in EXIT_CODES ? (failed.code as ErrorCode) : 'UNEXPECTED', failed.result)
}

function lineOf({ kind, container, state, share, text, result }: Job): string {
  const what = `${kind} ${container}`.trim()
  if (state === 'waiting') return `${what}: waits for what is under way`
  if (state === 'running') return `${what}  ${bar(share * 100, 20)} ${Math.floor(share * 100)} %  ${text.slice(-60)}`
  return `${what}: ${kind === 'diff' ? state : result}`
}

function print(view: BackupsView, options: SocketOptions): void {
  if (options.json === true) return void process.stdout.write(`${JSON.stringify(view, null, 2)}\n`)
  const { containers, head, copies, replicas, notes, offeredBytes, freeBytes } = view
  for (const note of notes) process.stderr.write(`${note}\n`)
  if (containers.length === 0) process.stdout.write('no container has `backup:` in skiff-core.yaml\n')
  else
    process.stdout.write(
      formatRows(containers, [
        ['CONTAINER', ({ container }) => container],
        ['LAST BACKUP', ({ ageSeconds }) => (ageSeconds < 0 ? 'never' : `${formatAge(ageSeconds)} ago`)],
        ['NOTE', ({ problem }) => problem],
      ]),
    )
  if (head !== null) {
    const whole = copies.filter(({ percent, note }) => percent === 100 && note === '').length
    process.stdout.write(
      `\n${formatBytes(head.bytes)} in ${head.repository} (epoch ${head.epoch}, ${head.seq}), copies: ${whole} of ${head.copies}\n`,
    )
    process.stdout.write(
      formatRows(copies, [
        ['COPY ON', ({ name }) => name],
        ['HELD', ({ percent }) => `${percent} %`],
        ['CHECKED', ({ daysUnchecked }) => `${daysUnchecked} d ago`],
        ['HEARD', ({ ageSeconds }) => `${formatAge(ageSeconds)} ago`],
        ['NOTE', ({ note }) => note],
      ]),
    )
  }
  if (replicas.length === 0) return
  process.stdout.write(`\nheld for others (${formatBytes(freeBytes)} of ${formatBytes(offeredBytes)} free):\n`)
  process.stdout.write(
    formatRows(replicas, [
      ['OF', ({ name }) => name],
      ['HELD', ({ percent }) => `${percent} %`],
      ['SIZE', ({ bytes }) => formatBytes(bytes)],
      ['CHECKED', ({ daysUnchecked }) => `${daysUnchecked} d ago`],
      ['NOTE', ({ note }) => note],
    ]),
  )
}
