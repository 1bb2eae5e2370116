import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { lstat, mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { JsonObject } from '../../protocol/shape.ts'
import { runProgram } from '../persist/run-program.ts'

/** A tree of some gigabytes on a slow card. */
const TAR_MS = 3 * 3_600_000

/**
 * Makes a writable layer, into which a whole tree was restored, hide the image below it: every directory at its top is opaque, and
 * what only the image has there is whited out. What a container sees is then the tree, whatever the image has.
 * @param lower - the image's layers
 * @see Linux, "Overlay Filesystem", "whiteouts and opaque directories"
 */
export async function layTreeOver(upper: string, lower: readonly string[]): Promise<void> {
  const restored = new Set(await readdir(upper))
  for (const name of restored)
    if ((await lstat(join(upper, name))).isDirectory())
      await runProgram('setfattr', ['-n', 'trusted.overlay.opaque', '-v', 'y', join(upper, name)])
  const below = new Set((await Promise.all(lower.map((layer) => readdir(layer).catch(() => [])))).flat())
  for (const name of below) if (!restored.has(name)) await runProgram('mknod', [join(upper, name), 'c', '0', '0'])
}

/** Gives `use` what `docker load` takes: an archive of a directory that holds `manifest.json` and what it names. */
export async function withArchiveOf<T>(directory: string, use: (archive: Readable) => Promise<T>): Promise<T> {
  const tar = spawn('tar', ['-C', directory, '-c', '.'], { stdio: ['ignore', 'pipe', 'ignore'] })
  tar.on('error', (error) => tar.stdout.destroy(error))
  try {
    return await use(tar.stdout)
  } finally {
    tar.stdout.destroy()
    tar.kill()
  }
}

/**
 * Writes a tree as an image archive: one layer, and the configuration of the image that it was made from.
 * @returns the id of the image
 * @see Docker Image Specification v1.2, "Combined Image JSON + Filesystem Changeset Format"
 */
export async function makeImageOfTree(
  tree: string,
  directory: string,
  name: string,
  described: JsonObject,
): Promise<string> {
  await mkdir(directory)
  const layer = join(directory, 'layer.tar')
  await runProgram('tar', ['--numeric-owner', '--xattrs', '--xattrs-include=*', '-C', tree, '-c', '-f', layer, '.'], {
    timeoutMs: TAR_MS,
  })
  const hash = createHash('sha256')
  await pipeline(createReadStream(layer, { highWaterMark: 1_048_576 }), hash)
  const config = Buffer.from(
    JSON.stringify({
      architecture: described['Architecture'],
      os: described['Os'] ?? 'linux',
      config: described['Config'],
      rootfs: { type: 'layers', diff_ids: [`sha256:${hash.digest('hex')}`] },
    }),
  )
  const id = createHash('sha256').update(config).digest('hex')
  await writeFile(join(directory, `${id}.json`), config)
  await writeFile(
    join(directory, 'manifest.json'),
    JSON.stringify([{ Config: `${id}.json`, RepoTags: [name], Layers: ['layer.tar'] }]),
  )
  return `sha256:${id}`
}
