import type { Socket } from 'node:net'
import { basename } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Duplex } from 'node:stream'
import type Docker from 'dockerode'
import type { UserSpec } from '../../protocol/core/skiff-core.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { type ContainerUser, findContainerUser } from './container-user.ts'
import { type AgentRelay, forwardAgent } from './forward-agent.ts'
import {
  encodeFrame,
  encodeNumber,
  type Frame,
  type FrameKind,
  MAX_FRAME_BYTES,
  type OpenRequest,
  parseOpen,
  parseSize,
  SIGNALS,
  type TerminalSize,
  UNAVAILABLE,
} from './frames.ts'

/** How the account's container stands, as the reconciler knows it. */
export type Readiness = {
  /** Worth waiting for; else it stays as it is, and `reason` says why it is not there. */
  readonly willBe: boolean
  readonly reason: string
}

export type SessionDeps = {
  readonly docker: Docker
  readonly account: string
  readonly user: UserSpec
  readonly readiness: () => Readiness
  /** Users that were looked up, by container id and name: three questions less for every session. */
  readonly known: Map<string, ContainerUser>
  readonly signal: AbortSignal
}

const POLL_MS = 300
/** Above what a shell that keeps to its window sends. */
const MOST_INPUT_BYTES = 4 * 1_048_576
/** A session that waits for an image may wait long, but not for ever. */
const MOST_WAIT_MS = 6 * 3_600_000
const START_MS = 15_000
/** Shells that read a login's files with `-l`. */
const LOGIN_SHELLS = ['sh', 'ash', 'bash', 'dash', 'ksh', 'mksh', 'zsh', 'fish']
/** Where distributions keep the program; sshd names the host's. */
const SFTP = `for p in /usr/lib/openssh /usr/libexec /usr/lib/ssh /usr/libexec/openssh /usr/lib/misc /usr/lib /run/current-system/sw/libexec; do
  [ -x "$p/sftp-server" ] && exec "$p/sftp-server"
done
echo "flotilla: this container has no sftp-server; install openssh-sftp-server in it (scp -O works without)" >&2
exit 127`

/**
 * One SSH session of an account in its container: waits until the container is there, starts it if it was stopped, runs the
 * command in it with everything passed both ways, and tells the exit code.
 */
export class Session {
  readonly #socket: Socket
  readonly #deps: SessionDeps
  #input: Duplex | undefined
  #exec: Docker.Exec | undefined
  #relay: AgentRelay | undefined
  #isEnded = false
  #inputEnded = false
  #early: Buffer[] = []
  #earlyBytes = 0
  #size: TerminalSize | undefined
  #isResizing = false
  #isTty = false

  constructor(socket: Socket, deps: SessionDeps) {
    this.#socket = socket
    this.#deps = deps
  }

  /** Never throws: what fails is told to who logs in. */
  async run(open: Frame): Promise<void> {
    let code = 1
    try {
      if (open.kind !== 'open') throw new FlotillaError('BAD_FRAME', 'log in: a session begins with another word')
      code = await this.#run(parseOpen(open.payload))
    } catch (error) {
      code = UNAVAILABLE
      const says = error instanceof FlotillaError ? error.message : messageOf(error).trim()
      this.#send('error', `${says}\r\n(whoever has a root key reaches the host itself: ssh root@…)`)
    } finally {
      this.#isEnded = true
      await this.#relay?.close().catch(() => {})
      this.#send('exit', Buffer.from([code]))
      this.#socket.end()
    }
  }

  /** What the login shell says after the first word. */
  take({ kind, payload }: Frame): void {
    switch (kind) {
      case 'stdin':
        return this.#input === undefined ? this.#keepEarly(payload) : this.#toCommand(this.#input, payload)
      case 'stdin-end':
        this.#inputEnded = true
        this.#input?.end()
        return
      case 'resize':
        this.#size = parseSize(JSON.parse(payload.toString()))
        return void this.#resize()
      case 'signal': {
        const signal = SIGNALS.find((one) => one === payload.toString())
        return signal === undefined ? undefined : void this.#kill(signal)
      }
      case 'agent-data':
        return this.#relay?.data(payload.readUInt32BE(0), payload.subarray(4))
      case 'agent-end':
        return this.#relay?.end(payload.readUInt32BE(0))
      default:
        throw new FlotillaError('BAD_FRAME', `log in: ${kind} does not come from a login shell`)
    }
  }

  /** The login shell is gone: what it ran gets to know, as from a terminal that was closed. */
  hangUp(): void {
    if (this.#isEnded) return
    this.#input?.destroy()
    void this.#kill('SIGHUP')
  }

  /** Typed before the container was there. */
  #keepEarly(payload: Buffer): void {
    this.#earlyBytes += payload.length
    if (this.#earlyBytes > MOST_INPUT_BYTES) throw new FlotillaError('LIMIT', 'log in: more input than was asked for')
    if (payload.length > 0) this.#early.push(Buffer.from(payload))
  }

  /** The shell may send more once this was taken. */
  #toCommand(input: Duplex, payload: Buffer): void {
    if (input.writableLength > MOST_INPUT_BYTES)
      throw new FlotillaError('LIMIT', 'log in: more input than was asked for')
    input.write(payload, () => void this.#send('credit', encodeNumber(payload.length)))
  }

  async #run(request: OpenRequest): Promise<number> {
    const info = await this.#ready()
    const { user, docker } = this.#deps
    const container = docker.getContainer(info.Id)
    const who = await this.#requireUser(container, info)
    const agent = request.hasAgent ? await this.#forward(info.State.Pid, who) : undefined
    const env = {
      ...request.env,
      USER: who.name,
      LOGNAME: who.name,
      ...(who.home === undefined ? {} : { HOME: who.home }),
      SHELL: user.containerShell[0] ?? '/bin/sh',
      ...(agent === undefined ? {} : { SSH_AUTH_SOCK: agent.path }),
    }
    const size: { ConsoleSize: [number, number] } = { ConsoleSize: [request.rows, request.columns] } // engines from API 1.42 on; others are told below
    const options = {
      Cmd: commandOf(user.containerShell, request),
      User: user.containerUser ?? '',
      Env: Object.entries(env).map(([name, value]) => `${name}=${value}`),
      Tty: request.tty,
      AttachStdin: true,
      AttachStdout: true,
      AttachStderr: true,
      ...(request.tty ? size : {}),
      ...(who.home === undefined ? {} : { WorkingDir: who.home }),
    }
    const exec = await container.exec(options).catch(async (cause: unknown) => {
      throw (await endedAgain(container, user.container)) ?? cause
    })
    this.#exec = docker.getExec(exec.id)
    this.#isTty = request.tty
    const stream = await exec.start({ hijack: true, stdin: true, Tty: request.tty })
    stream.on('error', () => {}) // it ends, and that is looked at
    this.#size ??= { columns: request.columns, rows: request.rows }
    this.#send('ready')
    void this.#resize()
    for (const part of this.#early.splice(0)) this.#toCommand(stream, part)
    this.#input = stream
    if (this.#inputEnded) stream.end()
    if (this.#socket.destroyed) this.hangUp()
    await this.#relayOutput(stream)
    return this.#exitCode(exec)
  }

  /** Waits for the container and tells how far it is. @throws FlotillaError NOT_FOUND when it will not be */
  async #ready(): Promise<Docker.ContainerInspectInfo> {
    const { docker, user, readiness, signal } = this.#deps
    const container = docker.getContainer(user.container)
    let told = ''
    for (const deadline = performance.now() + MOST_WAIT_MS; performance.now() < deadline; ) {
      if (this.#socket.destroyed) throw new FlotillaError('UNREACHABLE', 'log in: whoever logged in is gone')
      const found = await container.inspect().catch(() => undefined)
      const state = found?.State
      if (found !== undefined && state?.Running === true && !state.Paused && !state.Restarting) return found
      const { willBe, reason } = readiness()
      if (state !== undefined && !willBe && !state.Restarting) {
        await this.#start(container)
        return container.inspect()
      }
      if (!willBe && state?.Restarting !== true)
        throw new FlotillaError('NOT_FOUND', `log in: container ${user.container}: ${reason || 'it is not there'}`)
      const news = reason === '' ? `container ${user.container} is being set up` : reason
      if (news !== told) this.#send('progress', news)
      told = news
      await pause(POLL_MS, undefined, { signal })
    }
    throw new FlotillaError('TIMEOUT', `log in: container ${user.container} did not come up`)
  }

  /** One that was stopped by hand is started for who wants to work in it. */
  async #start(container: Docker.Container): Promise<void> {
    const name = this.#deps.user.container
    this.#send('progress', `starting container ${name}`)
    try {
      const state = (await container.inspect()).State
      if (state.Paused) await container.unpause()
      else await container.start()
    } catch (cause) {
      if ((cause as { statusCode?: number }).statusCode !== 304)
        throw new FlotillaError(
          'NOT_FOUND',
          `log in: container ${name} cannot be started: ${messageOf(cause).trim()}`,
          { cause },
        )
    }
    for (const deadline = performance.now() + START_MS; ; await pause(POLL_MS)) {
      const ended = await endedAgain(container, name)
      if (ended === undefined) return
      if (performance.now() > deadline || (await container.inspect()).State.ExitCode !== 0) throw ended
    }
  }

  async #requireUser(container: Docker.Container, info: Docker.ContainerInspectInfo): Promise<ContainerUser> {
    const { user, known } = this.#deps
    const wanted = user.containerUser ?? (info.Config.User || undefined)
    const key = `${info.Id} ${wanted ?? ''}`
    const found = known.get(key) ?? (await findContainerUser(container, wanted))
    if (found !== undefined) {
      // A home that is not there yet may come.
      if (found.home !== undefined) known.set(key, found)
      return found
    }
    if (user.createContainerUser && wanted !== undefined) {
      await this.#makeUser(container, wanted)
      const made = await findContainerUser(container, wanted)
      if (made !== undefined) return made
    }
    throw new FlotillaError(
      'BAD_CONFIG',
      `log in: users.${this.#deps.account}.containerUser: container ${user.container} has no user ${wanted}; set createContainerUser: true, or make it there`,
    )
  }

  async #makeUser(container: Docker.Container, name: string): Promise<void> {
    const script = 'if command -v useradd >/dev/null; then useradd -m "$1"; else adduser -D "$1"; fi'
    const exec = await container.exec({ Cmd: ['/bin/sh', '-c', script, 'sh', name], User: '0', AttachStderr: true })
    const stream = await exec.start({})
    const said: Buffer[] = []
    for await (const part of stream) said.push(part as Buffer)
    const code = await this.#exitCode(exec)
    if (code !== 0)
      throw new FlotillaError(
        'BAD_CONFIG',
        `log in: make the user ${name} in container ${this.#deps.user.container}: ${Buffer.concat(said).subarray(8).toString().trim().slice(-300)}`,
      )
  }

  /** Without it the session goes on: a key that cannot be reached says so itself. */
  async #forward(pid: number, who: ContainerUser): Promise<AgentRelay | undefined> {
    const frame = (kind: FrameKind, id: number, data?: Uint8Array): boolean => {
      const isTaken = this.#send(kind, encodeNumber(id, data))
      if (!isTaken) this.#socket.once('drain', () => this.#relay?.resume())
      return isTaken
    }
    try {
      this.#relay = await forwardAgent(pid, who, {
        open: (id) => frame('agent-open', id),
        data: (id, data) => frame('agent-data', id, data),
        end: (id) => frame('agent-end', id),
      })
      return this.#relay
    } catch (error) {
      this.#send('progress', `no agent forwarding: ${messageOf(error)}`)
      return undefined
    }
  }

  /** What the command prints, to its end. Who reads slowly holds it back. */
  async #relayOutput(stream: Duplex): Promise<void> {
    let rest: Buffer = Buffer.alloc(0)
    stream.on('data', (part: Buffer) => {
      let isTaken = true
      if (this.#isTty) isTaken = this.#sendAll('stdout', part)
      else {
        // Docker's own framing: kind, three zeros, length.
        rest = rest.length === 0 ? part : Buffer.concat([rest, part])
        while (rest.length >= 8) {
          const length = rest.readUInt32BE(4)
          if (rest.length < 8 + length) break
          isTaken = this.#sendAll(rest[0] === 2 ? 'stderr' : 'stdout', rest.subarray(8, 8 + length)) && isTaken
          rest = rest.subarray(8 + length)
        }
      }
      if (isTaken || this.#socket.destroyed) return
      stream.pause()
      this.#socket.once('drain', () => stream.resume())
    })
    await new Promise<void>((resolve) => {
      for (const end of ['end', 'close', 'error'] as const) stream.once(end, () => resolve())
      this.#socket.once('close', () => resolve())
    })
  }

  /** The engine notes the end of a command a moment after its output ends. */
  async #exitCode(exec: Docker.Exec): Promise<number> {
    for (const deadline = performance.now() + 10_000; performance.now() < deadline; await pause(20)) {
      const { Running, ExitCode } = await exec.inspect()
      if (!Running && ExitCode !== null) return ExitCode & 0xff
    }
    return 255
  }

  /**
   * The engine knows the terminal a moment after it said that the command was started. One request at a time: it takes two in any
   * order, and the last size has to stay.
   */
  async #resize(): Promise<void> {
    if (this.#isResizing) return
    this.#isResizing = true
    let done: TerminalSize | undefined
    for (let failures = 0; failures < 40 && done !== this.#size && !this.#isEnded; ) {
      const wanted = this.#size
      if (!this.#isTty || this.#exec === undefined || wanted === undefined || wanted.rows === 0) break
      try {
        await this.#exec.resize({ h: wanted.rows, w: wanted.columns })
        done = wanted
      } catch {
        failures += 1
        await pause(50)
      }
    }
    this.#isResizing = false
  }

  /** Docker cannot send a signal to a command; the kernel can, to all that it started. */
  async #kill(signal: NodeJS.Signals): Promise<void> {
    const found = await this.#exec?.inspect().catch(() => undefined)
    if (found === undefined || !found.Running || found.Pid <= 1) return
    for (const target of [-found.Pid, found.Pid]) {
      try {
        return void process.kill(target, signal)
      } catch {
        // no group of its own, or gone
      }
    }
  }

  #sendAll(kind: FrameKind, bytes: Buffer): boolean {
    let isTaken = true
    for (let at = 0; at < bytes.length; at += MAX_FRAME_BYTES)
      isTaken = this.#send(kind, bytes.subarray(at, at + MAX_FRAME_BYTES))
    return isTaken
  }

  #send(kind: FrameKind, payload: Uint8Array | string = ''): boolean {
    return this.#socket.writable ? this.#socket.write(encodeFrame(kind, payload)) : true
  }
}

/** Why a container that ran a moment ago does not; undefined when it does. */
async function endedAgain(container: Docker.Container, name: string): Promise<FlotillaError | undefined> {
  const state = (await container.inspect().catch(() => undefined))?.State
  if (state === undefined || state.Running) return undefined
  const why = state.Error === '' ? '' : ` (${state.Error})`
  return new FlotillaError('NOT_FOUND', `log in: container ${name} ended with exit code ${state.ExitCode}${why}`)
}

/** A login shell for a terminal; `-c` for a command; the container's own server for sftp, which sshd names by the host's path. */
function commandOf(shell: readonly string[], { command }: OpenRequest): string[] {
  if (command === undefined) {
    const isLogin = shell.length === 1 && LOGIN_SHELLS.includes(basename(shell[0] ?? ''))
    return [...shell, ...(isLogin ? ['-l'] : [])]
  }
  const program = basename(command.trim().split(/\s/)[0] ?? '')
  if (program === 'sftp-server' || program === 'internal-sftp') return ['/bin/sh', '-c', SFTP]
  return [...shell, '-c', command]
}
