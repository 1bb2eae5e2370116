import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { chunkHash, indexBytes } from '../../protocol/chunks/chunk-index.ts'
import { indexArtifact } from '../../builder/release/index-artifact.ts'
import type { ImageSet } from '../fleet/build-images.ts'
import type { BenchRow } from './bench.ts'

/** Bytes that a device with the root file system of release 1 must fetch for that of release 2, index included. */
export function benchDelta(images: ImageSet): Promise<readonly BenchRow[]> {
  const [from, to] = [join(images.r1, 'rootfs.squashfs'), join(images.r2, 'rootfs.squashfs')]
  const held = new Set<string>()
  const old = indexArtifact(from).index
  for (let at = 0; at < old.count; at += 1) held.add(chunkHash(old, at))
  const next = indexArtifact(to).index
  let ours = indexBytes(next.count)
  for (let at = 0; at < next.count; at += 1) {
    if (held.has(chunkHash(next, at))) continue
    held.add(chunkHash(next, at))
    ours += next.lengths[at] ?? 0
  }
  const row = (peer: number, peerName: string): BenchRow => ({
    name: 'delta r1 to r2',
    ours,
    peer,
    peerName,
    unit: 'bytes',
    bound: null,
  })
  return Promise.resolve([row(rsyncBytes(from, to), 'rsync 3'), row(casyncBytes(from, to), 'casync 2')])
}

function rsyncBytes(from: string, to: string): number {
  const directory = mkdtempSync(join(tmpdir(), 'flotilla-rsync-'))
  try {
    cpSync(from, join(directory, 'image'))
    const out = execFileSync('rsync', ['--no-whole-file', '--stats', '-I', to, join(directory, 'image')], {
      encoding: 'utf8',
    })
    const field = (name: string) => Number((new RegExp(`${name}: ([\\d,]+)`).exec(out)?.[1] ?? '').replaceAll(',', ''))
    return field('Literal data') + field('Total bytes received')
  } finally {
    rmSync(directory, { recursive: true })
  }
}

function casyncBytes(from: string, to: string): number {
  const directory = mkdtempSync(join(tmpdir(), 'flotilla-casync-'))
  try {
    const store = join(directory, 'store.castr')
    mkdirSync(store)
    const make = (index: string, image: string) =>
      execFileSync('casync', ['make', `--store=${store}`, join(directory, index), image], { stdio: 'ignore' })
    make('a.caibx', from)
    const before = treeBytes(store)
    make('b.caibx', to)
    return treeBytes(store) - before + statSync(join(directory, 'b.caibx')).size
  } finally {
    rmSync(directory, { recursive: true })
  }
}

function treeBytes(directory: string): number {
  let sum = 0
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) sum += statSync(join(entry.parentPath, entry.name)).size
  }
  return sum
}
