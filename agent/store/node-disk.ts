import { spawn } from 'node:child_process'
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import type { Disk } from './disk.ts'

const MAX_OPEN = 32

type OpenFile = {
  readonly file: Promise<FileHandle>
  users: number
  /** To be closed when its last user is done. */
  leaves: boolean
  readonly closed: Promise<void>
  readonly resolve: () => void
}

/** A directory on a real file system. Keeps at most 32 files open that are not in use. */
export class NodeDisk implements Disk {
  readonly #root: string
  /** By path, used last at the end. */
  readonly #open = new Map<string, OpenFile>()

  constructor(root: string) {
    this.#root = root
  }

  async makeDirectory(path: string): Promise<void> {
    await this.#run(`make directory ${path}`, () => mkdir(this.#at(path), { recursive: true }))
  }

  async allocate(path: string, lengthBytes: number): Promise<void> {
    await this.#run(`allocate ${path}`, async () => {
      const file = await open(this.#at(path), 'a+')
      try {
        const { size } = await file.stat()
        if (size !== lengthBytes) await file.truncate(lengthBytes)
      } finally {
        await file.close()
      }
    })
  }

  async write(path: string, offset: number, bytes: Uint8Array): Promise<void> {
    await this.#run(`write ${path}`, async () => {
      await this.#withHandle(path, async (file) => {
        for (let done = 0; done < bytes.length; ) {
          done += (await file.write(bytes, done, bytes.length - done, offset + done)).bytesWritten
        }
      })
    })
  }

  async read(path: string, offset: number, lengthBytes: number): Promise<Uint8Array | undefined> {
    return this.#run(`read ${path}`, async () => {
      const bytes = Buffer.allocUnsafe(lengthBytes)
      let done = 0
      const whole = await this.#withHandle(path, async (file) => {
        for (done = 0; done < lengthBytes; ) {
          const { bytesRead } = await file.read(bytes, done, lengthBytes - done, offset + done)
          if (bytesRead === 0) break
          done += bytesRead
        }
        return bytes
      }).catch(undefinedIfMissing)
      return whole?.subarray(0, done)
    })
  }

  async length(path: string): Promise<number | undefined> {
    return this.#run(`look at ${path}`, async () => (await stat(this.#at(path)).catch(undefinedIfMissing))?.size)
  }

  async flush(path: string): Promise<void> {
    await this.#run(`flush ${path}`, () => this.#withHandle(path, (file) => file.sync()))
  }

  async flushDirectory(path: string): Promise<void> {
    await this.#run(`flush directory ${path}`, async () => {
      const directory = await open(this.#at(path), 'r')
      try {
        await directory.sync()
      } finally {
        await directory.close()
      }
    })
  }

  async dropCache(path: string): Promise<void> {
    await this.#close(path)
    // posix_fadvise(DONTNEED) is not in Node; coreutils' dd asks for it with count=0 and iflag=nocache. BusyBox's dd does not
    // know the flag: then all clean pages go, which only root may do; for others the read-back may come from the cache.
    const dropped = await new Promise<boolean>((resolve) => {
      const dd = spawn('dd', [`if=${this.#at(path)}`, 'iflag=nocache', 'count=0'], { stdio: 'ignore' })
      dd.on('error', () => resolve(false))
      dd.on('close', (code) => resolve(code === 0))
    })
    if (!dropped) await writeFile('/proc/sys/vm/drop_caches', '1').catch(() => {})
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#close(from)
    await this.#close(to)
    await this.#run(`rename ${from} to ${to}`, () => rename(this.#at(from), this.#at(to)))
  }

  async remove(path: string): Promise<void> {
    await this.#closeUnder(path)
    await this.#run(`remove ${path}`, () => rm(this.#at(path), { recursive: true, force: true }))
    // Opened again while it was being removed: a file of the same name made later is another one.
    await this.#closeUnder(path)
  }

  async list(path: string): Promise<readonly string[]> {
    return this.#run(`list ${path}`, async () =>
      ((await readdir(this.#at(path)).catch(undefinedIfMissing)) ?? []).sort(),
    )
  }

  async freeBytes(): Promise<number> {
    return this.#run('look at free space', async () => {
      const info = await statfs(this.#root)
      return info.bavail * info.bsize
    })
  }

  /** Closes all files. */
  async close(): Promise<void> {
    for (const path of [...this.#open.keys()]) await this.#close(path)
  }

  #at(path: string): string {
    return join(this.#root, path)
  }

  /** Runs an action on an open file. While it runs the file is not closed, whatever else happens. */
  async #withHandle<T>(path: string, action: (file: FileHandle) => Promise<T>): Promise<T> {
    const used = this.#take(path)
    try {
      return await action(await used.file)
    } finally {
      used.users -= 1
      this.#closeIfDone(used)
      await this.#closeIdle(MAX_OPEN)
    }
  }

  /** Opens the file, or takes the open one. At once, so that nobody can open it a second time: that one would be forgotten. */
  #take(path: string): OpenFile {
    const known = this.#open.get(path)
    const taken = known ?? this.#opened(path)
    taken.users += 1
    this.#open.delete(path) // to the end: used last
    this.#open.set(path, taken)
    return taken
  }

  #opened(path: string): OpenFile {
    void this.#closeIdle(MAX_OPEN - 1)
    // A proven slot may lie on a read-only mount: reading must still work.
    const file = open(this.#at(path), 'r+').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'EROFS' || error.code === 'EACCES') return open(this.#at(path), 'r')
      throw error
    })
    const { promise: closed, resolve } = Promise.withResolvers<void>()
    const opened: OpenFile = { file, users: 0, leaves: false, closed, resolve }
    file.catch(() => {
      if (this.#open.get(path) === opened) this.#open.delete(path)
      resolve()
    })
    return opened
  }

  /** Closes files that nobody uses, longest unused first, until at most so many are open. */
  async #closeIdle(most: number): Promise<void> {
    if (this.#open.size <= most) return
    const idle = [...this.#open].filter(([, { users }]) => users === 0).map(([path]) => path)
    await Promise.all(idle.slice(0, this.#open.size - most).map((path) => this.#close(path)))
  }

  /** Closes a file as soon as nobody uses it; resolves then. */
  async #close(path: string): Promise<void> {
    const leaving = this.#open.get(path)
    if (leaving === undefined) return
    this.#open.delete(path)
    leaving.leaves = true
    this.#closeIfDone(leaving)
    await leaving.closed
  }

  #closeIfDone({ leaves, users, file, resolve }: OpenFile): void {
    if (!leaves || users > 0) return
    file
      .then((handle) => handle.close())
      .catch(() => {}) // was never opened
      .finally(resolve)
  }

  async #closeUnder(path: string): Promise<void> {
    for (const open of [...this.#open.keys()]) if (open === path || open.startsWith(`${path}/`)) await this.#close(open)
  }

  async #run<T>(what: string, action: () => Promise<T>): Promise<T> {
    try {
      return await action()
    } catch (cause) {
      if (cause instanceof FlotillaError) throw cause
      const code = (cause as NodeJS.ErrnoException).code
      if (code === 'ENOSPC' || code === 'EDQUOT') {
        throw new FlotillaError('NOT_ENOUGH_SPACE', `${what}: the disk under ${this.#root} is full; free space on it`, {
          cause,
        })
      }
      const hint = code === 'EROFS' ? '; the file system is mounted read-only' : ''
      throw new FlotillaError('DISK_FAILED', `${what} under ${this.#root}: ${messageOf(cause)}${hint}`, { cause })
    }
  }
}

function undefinedIfMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined
  throw error
}
