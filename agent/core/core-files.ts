import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseSkiffCore, type SkiffCore } from '../../protocol/core/skiff-core.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'

/** The file that counts on this device. */
export type CoreFile = {
  readonly core: SkiffCore
  /** Where it lies; empty when there is none. */
  readonly path: string
  readonly warnings: readonly string[]
  /** As it is written; empty when there is none. */
  readonly text: string
}

const NONE: SkiffCore = { containers: new Map(), users: new Map(), images: new Map(), prune: false }

/**
 * Reads what this device is to run: its own `skiff-core.yaml`, else the `config.yaml` that SkiffOS's program left, else the one
 * of the release. The first that is there counts alone, and the others are told of.
 * @param directory - `/mnt/persist/skiff/core`
 * @param released - path of the release's file
 * @throws FlotillaError BAD_CONFIG with file, line and column; DISK_FAILED
 */
export async function readCoreFile(directory: string, released: string | undefined): Promise<CoreFile> {
  const candidates = [
    { path: join(directory, 'skiff-core.yaml'), lenient: false },
    { path: join(directory, 'config.yaml'), lenient: true },
    ...(released === undefined ? [] : [{ path: released, lenient: false }]),
  ]
  const found: { path: string; lenient: boolean; text: string }[] = []
  for (const candidate of candidates) {
    const text = await textOf(candidate.path)
    if (text !== undefined) found.push({ ...candidate, text })
  }
  const [first, ...others] = found
  if (first === undefined) return { core: NONE, path: '', warnings: [], text: '' }
  const { core, warnings } = parseSkiffCore(first.text, first.path, { lenient: first.lenient })
  const passed = others.map(({ path }) => `${path} does not count beside ${first.path}`)
  return { core, path: first.path, warnings: [...passed, ...warnings], text: first.text }
}

async function textOf(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new FlotillaError('DISK_FAILED', `read ${path}: ${messageOf(cause)}`, { cause })
  }
}
