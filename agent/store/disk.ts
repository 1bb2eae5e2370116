import { FlotillaError } from '../../protocol/errors.ts'

/**
 * The file system as the agent uses it. Paths are relative, with `/`. What was written is safe only after `flush`
 * of the file and, for names, `flushDirectory` of its parent: the in-memory version loses or tears everything else
 * when its power is cut, and both versions pass the same conformance test.
 * Failures are FlotillaError DISK_FAILED or NOT_ENOUGH_SPACE.
 */
export type Disk = {
  /** Makes a directory and its parents; fine when it is there. */
  readonly makeDirectory: (path: string) => Promise<void>
  /** Creates or opens a file and makes it exactly `lengthBytes` long; new space reads as zeros. */
  readonly allocate: (path: string, lengthBytes: number) => Promise<void>
  /** Overwrites in place; the file must be allocated. */
  readonly write: (path: string, offset: number, bytes: Uint8Array) => Promise<void>
  /** Short only at the end of the file; undefined when there is no such file. */
  readonly read: (path: string, offset: number, lengthBytes: number) => Promise<Uint8Array | undefined>
  readonly length: (path: string) => Promise<number | undefined>
  readonly flush: (path: string) => Promise<void>
  readonly flushDirectory: (path: string) => Promise<void>
  /** Makes the next read come from the medium, as far as the system allows. */
  readonly dropCache: (path: string) => Promise<void>
  readonly rename: (from: string, to: string) => Promise<void>
  /** Removes a file or a whole directory; fine when it is gone. */
  readonly remove: (path: string) => Promise<void>
  /** Names in a directory, sorted; empty when there is none. */
  readonly list: (path: string) => Promise<readonly string[]>
  readonly freeBytes: () => Promise<number>
}

/** Reads a whole small file. @returns undefined when it is missing or longer than `maxBytes` */
export async function readSmallFile(disk: Disk, path: string, maxBytes: number): Promise<Uint8Array | undefined> {
  const length = await disk.length(path)
  if (length === undefined || length > maxBytes) return undefined
  return disk.read(path, 0, length)
}

/**
 * Writes a small file under a new name, flushed, so that after a power cut it is either absent or whole.
 * Not for names that exist.
 */
export async function writeNewFile(disk: Disk, path: string, bytes: Uint8Array): Promise<void> {
  const temporary = `${path}.new`
  await disk.remove(temporary)
  await disk.allocate(temporary, bytes.length)
  await disk.write(temporary, 0, bytes)
  await disk.flush(temporary)
  await disk.rename(temporary, path)
  await disk.flushDirectory(parentOf(path))
}

/**
 * Reads from the medium what was just written, and matches it.
 * @param at - where in the file; without it the bytes are all of the file
 * @throws FlotillaError VERIFY_FAILED
 */
export async function requireAsWritten(disk: Disk, path: string, wanted: Uint8Array, at?: number): Promise<void> {
  await disk.dropCache(path)
  // One byte more: a longer file is another one.
  const bytes = await disk.read(path, at ?? 0, wanted.length + (at === undefined ? 1 : 0))
  if (bytes === undefined || Buffer.compare(bytes, wanted) !== 0)
    throw new FlotillaError('VERIFY_FAILED', `verify ${path}: it does not read back as written; the medium is failing`)
}

/** The directory of a path; `.` for a plain name. */
export function parentOf(path: string): string {
  const at = path.lastIndexOf('/')
  return at < 0 ? '.' : path.slice(0, at)
}
