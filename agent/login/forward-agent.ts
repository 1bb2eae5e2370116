import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { chmod, chown, type FileHandle, mkdir, open, rm } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'

/** Connections at a time that programs in the container may have to the client's SSH agent, for one session. */
const MAX_CONNECTIONS = 32

export type AgentRelay = {
  /** The socket as the container sees it. */
  readonly path: string
  readonly data: (id: number, data: Uint8Array) => void
  readonly end: (id: number) => void
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
    readonly data: (id: number, data: Buffer) => void
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
      socket.on('data', (data) => events.data(id, Buffer.from(data)))
      socket.on('error', () => {})
      socket.on('close', () => {
        sockets.delete(id)
        events.end(id)
      })
    })
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(socketPath, resolve)
    })
    await chmod(socketPath, 0o600)
    await chown(socketPath, owner.uid, owner.gid)
    await directory.chown(owner.uid, owner.gid)
  } catch (error) {
    await directory?.close()
    await rm(outside, { recursive: true, force: true })
    await tmp.close()
    throw error
  }
  return {
    path: `/tmp/${name}/agent`,
    data: (id, data) => void sockets.get(id)?.write(data),
    end: (id) => void sockets.get(id)?.end(),
    close: async () => {
      for (const socket of sockets.values()) socket.destroy()
      server.close()
      await directory.close()
      await rm(outside, { recursive: true, force: true }).catch(() => {}) // the container may be gone
      await tmp.close()
    },
  }
}
