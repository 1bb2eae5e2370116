import { createConnection, type Socket } from 'node:net'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { bar } from '../../protocol/terminal/print.ts'
import {
  encodeFrame,
  encodeNumber,
  type Frame,
  FrameReader,
  INPUT_WINDOW_BYTES,
  MAX_FRAME_BYTES,
  SIGNALS,
  UNAVAILABLE,
} from './frames.ts'

/**
 * The login shell of an account whose sessions land in a container. sshd runs it as `-flotilla-shell` for a terminal and as
 * `flotilla-shell -c COMMAND`; it hands everything to the agent, over the socket that only this account may use, and ends
 * with the command's own exit code. Small and without libraries: it starts with every session.
 */

const DIRECTORY = process.env['FLOTILLA_LOGIN_DIRECTORY'] ?? '/run/flotilla/login'
/** What a session brings along: the language, the terminal, and what SSH says of itself. */
const PASSED = /^(LANG|LC_[A-Z_]+|TERM|COLORTERM|TZ|GIT_PROTOCOL|SSH_CONNECTION|SSH_CLIENT|SSH_TTY)$/
const PARENT_MS = 1_000

const user = userInfo().username
const isTerminal = process.stdin.isTTY === true
const agentPath = process.env['SSH_AUTH_SOCK']
const socket = createConnection({ path: join(DIRECTORY, `${user}.sock`) })
const parent = process.ppid
const reader = new FrameReader()
const agents = new Map<number, Socket>()
let exitCode = UNAVAILABLE
let isDone = false
let progressShown = false
let window = INPUT_WINDOW_BYTES

socket.on('connect', () => {
  send('open', JSON.stringify(request()))
  process.stdin.on('data', (part: Buffer) => {
    for (let at = 0; at < part.length; at += MAX_FRAME_BYTES) send('stdin', part.subarray(at, at + MAX_FRAME_BYTES))
    window -= part.length
    if (window <= 0) process.stdin.pause()
  })
  process.stdout.on('error', () => socket.end()) // who read it is gone
  process.stdin.on('end', () => send('stdin-end'))
  // A terminal that is gone, such as one that was closed.
  process.stdin.on('error', () => send('stdin-end'))
  if (isTerminal) process.stdout.on('resize', () => send('resize', JSON.stringify(size())))
  // sshd tells a command without a terminal nothing of a client that is gone; it only goes itself.
  setInterval(() => process.ppid === parent || socket.destroy(), PARENT_MS).unref()
  for (const signal of SIGNALS) process.on(signal, () => send('signal', signal))
})
socket.on('data', (part: Buffer) => {
  for (const frame of reader.push(part)) take(frame)
})
socket.on('error', (error: NodeJS.ErrnoException) => {
  if (isDone) return
  const why =
    error.code === 'EACCES'
      ? 'this account may not'
      : error.code === 'ENOENT' || error.code === 'ECONNREFUSED'
        ? 'the agent of this device does not run, or does not know this account yet; try again, or reach the host as root'
        : error.message
  process.stderr.write(`flotilla: log in to the container of ${user}: ${why}\r\n`)
})
socket.on('close', () => finish())

function request() {
  const { argv, env } = process
  const dashC = argv.indexOf('-c', 2)
  return {
    ...(dashC > 0 && argv[dashC + 1] !== undefined ? { command: argv[dashC + 1] } : {}),
    tty: isTerminal,
    ...size(),
    env: Object.fromEntries(Object.entries(env).filter(([name, value]) => PASSED.test(name) && value !== undefined)),
    hasAgent: agentPath !== undefined,
  }
}

function size() {
  return { columns: process.stdout.columns ?? 0, rows: process.stdout.rows ?? 0 }
}

function send(...frame: Parameters<typeof encodeFrame>): void {
  if (socket.writable) socket.write(encodeFrame(...frame))
}

function take({ kind, payload }: Frame): void {
  switch (kind) {
    case 'stdout':
      return write(process.stdout, payload)
    case 'stderr':
      return write(process.stderr, payload)
    case 'progress':
      return showProgress(payload.toString())
    case 'ready':
      showProgress('')
      if (isTerminal) process.stdin.setRawMode(true)
      return
    case 'error':
      showProgress('')
      process.stderr.write(`flotilla: ${payload.toString()}\r\n`)
      return
    case 'exit':
      isDone = true
      exitCode = payload.readUInt8(0)
      return void socket.end()
    case 'credit':
      window += payload.readUInt32BE(0)
      if (window > 0) process.stdin.resume()
      return
    case 'agent-open':
      return openAgent(payload.readUInt32BE(0))
    case 'agent-data':
      return void agents.get(payload.readUInt32BE(0))?.write(payload.subarray(4))
    case 'agent-end':
      return void agents.get(payload.readUInt32BE(0))?.end()
    default:
  }
}

/** What is slow to read holds back who writes, through all that is between them. */
function write(target: NodeJS.WriteStream, payload: Buffer): void {
  if (target.write(payload) || socket.isPaused()) return
  socket.pause()
  target.once('drain', () => socket.resume())
}

/** On a terminal one line that changes; elsewhere a line for each news. */
function showProgress(text: string): void {
  if (process.stderr.isTTY !== true) {
    if (text !== '') process.stderr.write(`flotilla: ${text}\n`)
    return
  }
  const [, percent] = / (\d{1,3}) %/.exec(text) ?? []
  const shown = percent === undefined ? text : `${bar(Number(percent), 24)} ${text}`
  if (text !== '' || progressShown) process.stderr.write(`\r\x1b[K${shown}`)
  progressShown = text !== ''
}

/** Somebody in the container asks the client's SSH agent. This process may reach it: it runs as the account. */
function openAgent(id: number): void {
  if (agentPath === undefined) return send('agent-end', encodeNumber(id))
  const agent = createConnection({ path: agentPath })
  agents.set(id, agent)
  agent.on('data', (data: Buffer) => send('agent-data', encodeNumber(id, data)))
  agent.on('error', () => {})
  agent.on('close', () => {
    agents.delete(id)
    send('agent-end', encodeNumber(id))
  })
}

function finish(): void {
  if (isTerminal && process.stdin.isRaw) process.stdin.setRawMode(false)
  for (const agent of agents.values()) agent.destroy()
  process.exitCode = exitCode
  process.stdin.destroy()
  // What is still in the pipe to sshd is written before the process ends.
  for (const stream of [process.stdout, process.stderr]) if (stream.writableLength === 0) stream.end()
  for (const signal of SIGNALS) process.removeAllListeners(signal)
}
