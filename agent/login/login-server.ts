import { chown, mkdir, rm } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import type Docker from 'dockerode'
import type { UserSpec } from '../../protocol/core/skiff-core.ts'
import { dropOldest } from '../../protocol/bounded-map.ts'
import { messageOf } from '../../protocol/errors.ts'
import type { EventLog } from '../control/event-log.ts'
import { listenPrivately } from '../control/listen-privately.ts'
import type { ContainerUser } from './container-user.ts'
import { FrameReader } from './frames.ts'
import { type Readiness, Session } from './session.ts'

export type LoginServerDeps = {
  /** `/run/flotilla/login`. */
  readonly directory: string
  readonly engineSocket: string
  readonly readiness: (container: string) => Readiness
  readonly log: EventLog
  readonly signal: AbortSignal
}

type Door = { readonly server: Server; user: UserSpec; readonly uid: number; sessions: number }

const MAX_SESSIONS = 64
const MAX_KNOWN = 256

/**
 * One socket for each account, which the kernel lets only that account (and root) connect to: so who asks is known without a
 * word, and gets exactly the container that the file gives the account.
 */
export class LoginServer {
  readonly #deps: LoginServerDeps
  readonly #doors = new Map<string, Door>()
  readonly #known = new Map<string, ContainerUser>()

  constructor(deps: LoginServerDeps) {
    this.#deps = deps
  }

  /** Opens and closes sockets as accounts come and go. @param uidOf - the account's number on this host */
  async follow(users: ReadonlyMap<string, UserSpec>, uidOf: (account: string) => number | undefined): Promise<void> {
    for (const [account, door] of this.#doors) {
      const user = users.get(account)
      if (user !== undefined && uidOf(account) === door.uid) door.user = user
      else await this.#close(account, door)
    }
    for (const [account, user] of users) {
      const uid = uidOf(account)
      if (uid !== undefined && !this.#doors.has(account)) await this.#open(account, user, uid)
    }
  }

  async stop(): Promise<void> {
    for (const [account, door] of this.#doors) await this.#close(account, door)
  }

  async #open(account: string, user: UserSpec, uid: number): Promise<void> {
    const { directory } = this.#deps
    await mkdir(directory, { recursive: true, mode: 0o755 })
    const path = join(directory, `${account}.sock`)
    await rm(path, { force: true })
    const { default: Client } = await import('dockerode') // not needed to start
    const docker = new Client({ socketPath: this.#deps.engineSocket })
    const server = createServer((socket) => this.#accept(account, docker, socket))
    await listenPrivately(server, path, 0o177)
    await chown(path, uid, uid)
    this.#doors.set(account, { server, user, uid, sessions: 0 })
  }

  async #close(account: string, { server }: Door): Promise<void> {
    this.#doors.delete(account)
    server.close()
    await rm(join(this.#deps.directory, `${account}.sock`), { force: true })
  }

  #accept(account: string, docker: Docker, socket: Socket): void {
    const door = this.#doors.get(account)
    if (door === undefined || door.sessions >= MAX_SESSIONS) return void socket.destroy()
    door.sessions += 1
    const { readiness, signal, log } = this.#deps
    const { user } = door
    const ready = () => readiness(user.container)
    dropOldest(this.#known, MAX_KNOWN)
    const session = new Session(socket, { docker, account, user, readiness: ready, known: this.#known, signal })
    const reader = new FrameReader()
    let isOpen = false
    socket.on('data', (part: Buffer) => {
      try {
        for (const frame of reader.push(part)) {
          if (isOpen) session.take(frame)
          else void session.run(frame)
          isOpen = true
        }
      } catch (error) {
        log.add('warn', 'login-refused', { account, error: messageOf(error) })
        socket.destroy()
      }
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      door.sessions -= 1
      session.hangUp()
    })
  }
}
