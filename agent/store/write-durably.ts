import { mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'

/**
 * Replaces a file, or makes it: after a power cut it is as it was or as it is to be. Not for FAT, where a rename is no such thing.
 * Its directory is made when it is not there.
 * @param mode - of a file that is secret, such as 0o600
 */
export async function writeDurably(path: string, content: string | Uint8Array, mode = 0o644): Promise<void> {
  const fresh = `${path}.new`
  // Who may read the file may enter its directory.
  await mkdir(dirname(path), { recursive: true, mode: mode | ((mode & 0o444) >> 2) })
  await rm(fresh, { force: true })
  const file = await open(fresh, 'w', mode)
  try {
    await file.writeFile(content)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(fresh, path)
  const directory = await open(dirname(path), 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}
