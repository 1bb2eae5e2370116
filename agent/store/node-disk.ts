import { spawn } from 'node:child_process'
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import type { Disk } from './disk.ts'

/** A directory on a real file system. Keeps at most 32 files open. */
export class NodeDisk implements Disk {
  readonly #root: string
  readonly #handles = new Map<string, Promise<FileHandle>>()

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
    // posix_fadvise(DONTNEED) is not in Node; coreutils' dd asks for it with count=0 and iflag=nocache. BusyBox's dd
    // does not know the flag: the read-back then may come from the cache, which is what the system can do.
    await new Promise<void>((resolve) => {
      const dd = spawn('dd', [`if=${this.#at(path)}`, 'iflag=nocache', 'count=0'], { stdio: 'ignore' })
      dd.on('error', () => resolve())
      dd.on('close', () => resolve())
    })
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#close(from)
    await this.#close(to)
    await this.#run(`rename ${from} to ${to}`, () => rename(this.#at(from), this.#at(to)))
  }

  async remove(path: string): Promise<void> {
    for (const open of [...this.#handles.keys()])
      if (open === path || open.startsWith(`${path}/`)) await this.#close(open)
    await this.#run(`remove ${path}`, () => rm(this.#at(path), { recursive: true, force: true }))
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
    for (const path of [...this.#handles.keys()]) await this.#close(path)
  }

  #at(path: string): string {
    return join(this.#root, path)
  }

  /** Runs an action on an open file; once more when the file was closed in between (evicted, or its cache dropped). */
  async #withHandle<T>(path: string, action: (file: FileHandle) => Promise<T>): Promise<T> {
    try {
      return await action(await this.#handle(path))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EBADF') throw error
      return action(await this.#handle(path))
    }
  }

  async #handle(path: string): Promise<FileHandle> {
    const known = this.#handles.get(path)
    if (known !== undefined) return known
    while (this.#handles.size >= 32) await this.#close(this.#handles.keys().next().value ?? '')
    // A proven slot may lie on a read-only mount: reading must still work.
    const opening = open(this.#at(path), 'r+').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'EROFS' || error.code === 'EACCES') return open(this.#at(path), 'r')
      throw error
    })
    this.#handles.set(path, opening)
    opening.catch(() => this.#handles.delete(path))
    return opening
  }

  async #close(path: string): Promise<void> {
    const handle = this.#handles.get(path)
    this.#handles.delete(path)
    await handle?.then((file) => file.close()).catch(() => {}) // was never opened
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
