import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, lchown, mkdir, open, rmdir, unlink } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'
import { listenPrivately } from '../control/listen-privately.ts'

/** Connections at a time that programs in the container may have to the client's SSH agent, for one session. */
const MAX_CONNECTIONS = 32

/** What a program in the container has not read yet; more and it is cut off. */
const MOST_UNREAD_BYTES = 1_048_576

export type AgentRelay = {
  /** The socket as the container sees it. */
  readonly path: string
  readonly data: (id: number, data: Uint8Array) => void
  readonly end: (id: number) => void
  /** Goes on reading what was held back. */
  readonly resume: () => void
  readonly close: () => Promise<void>
}

/**
 * Listens inside a running container for programs that want the client's SSH agent. Nothing can be mounted into a container that
 * runs, so the socket is made in its `/tmp` through `/proc/<pid>/root`; every step goes by an open directory that is no link,
 * since a link in the container would lead out of it.
 * @param pid - of the container's first process, as the host counts
 * @param owner - who may connect, as the container counts
 * @throws when `/tmp` of the container is not a directory, or nothing can be made there
 */
export async function forwardAgent(
  pid: number,
  owner: { readonly uid: number; readonly gid: number },
  events: {
    readonly open: (id: number) => void
    /** @returns false when it should be held back */
    readonly data: (id: number, data: Buffer) => boolean
    readonly end: (id: number) => void
  },
): Promise<AgentRelay> {
  const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW
  const root = await open(`/proc/${pid}/root`, constants.O_RDONLY | constants.O_DIRECTORY)
  let tmp: FileHandle
  try {
    tmp = await open(`/proc/self/fd/${root.fd}/tmp`, flags)
  } finally {
    await root.close()
  }
  const name = `flotilla-agent-${randomBytes(8).toString('hex')}`
  const outside = `/proc/self/fd/${tmp.fd}/${name}`
  let directory: FileHandle | undefined
  let server: Server
  const sockets = new Map<number, Socket>()
  try {
    await mkdir(outside, { mode: 0o700 })
    directory = await open(outside, flags)
    const socketPath = `/proc/self/fd/${directory.fd}/agent`
    let next = 0
    server = createServer((socket) => {
      if (sockets.size >= MAX_CONNECTIONS) return void socket.destroy()
      const id = (next += 1)
      sockets.set(id, socket)
      events.open(id)
      socket.on('data', (data) => {
        if (!events.data(id, Buffer.from(data))) socket.pause()
      })
      socket.on('error', () => {})
      socket.on('close', () => {
        sockets.delete(id)
        events.end(id)
      })
    })
    await listenPrivately(server, socketPath, 0o177)
    // Never by a name that the container could have made a link meanwhile.
    await lchown(socketPath, owner.uid, owner.gid)
    await directory.chown(owner.uid, owner.gid)
  } catch (error) {
    await clear(tmp, directory, name)
    throw error
  }
  return {
    path: `/tmp/${name}/agent`,
    data: (id, data) => {
      const socket = sockets.get(id)
      if (socket !== undefined && socket.writableLength > MOST_UNREAD_BYTES) socket.destroy()
      else socket?.write(data)
    },
    resume: () => {
      for (const socket of sockets.values()) socket.resume()
    },
    end: (id) => void sockets.get(id)?.end(),
    close: async () => {
      for (const socket of sockets.values()) socket.destroy()
      server.close()
      await clear(tmp, directory, name)
    },
  }
}

/** Removes only what was made, and nothing through a link: the directory belongs to the container's user. What stays is the container's. */
async function clear(tmp: FileHandle, directory: FileHandle | undefined, name: string): Promise<void> {
  if (directory !== undefined) await unlink(`/proc/self/fd/${directory.fd}/agent`).catch(() => {})
  await directory?.close()
  await rmdir(`/proc/self/fd/${tmp.fd}/${name}`).catch(() => {})
  await tmp.close()
}
