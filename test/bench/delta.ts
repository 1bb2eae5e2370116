import { execFile, execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { chunkHash, indexBytes } from '../../protocol/chunks/chunk-index.ts'
import { squashfsBoundaries } from '../../protocol/chunks/squashfs-boundaries.ts'
import { indexArtifact } from '../../builder/release/index-artifact.ts'
import type { ImageSet } from '../fleet/build-images.ts'
import type { BenchRow } from './bench.ts'
import { changedTenth } from './changed-tenth.ts'

/**
 * Bytes that a device with one root file system must fetch for another, index or control file included. The optimum is a
 * patch for this pair alone; the bound, what no chunker that cuts at block boundaries can do better.
 */
export async function benchDelta(images: ImageSet): Promise<readonly BenchRow[]> {
  const tenth = changedTenth((line) => process.stderr.write(`  ${line}\n`))
  const rows: BenchRow[] = []
  for (const [name, from, to] of [
    ['delta r1 to r2', join(images.r1, 'rootfs.squashfs'), join(images.r2, 'rootfs.squashfs')],
    ['delta, a tenth of the packages changed', tenth.from, tenth.to],
  ] as const) {
    const ours = ourBytes(from, to)
    const bound = blockBytes(from, to)
    for (const [peerName, measure] of [
      ['rsync 3', rsyncBytes],
      ['casync 2', casyncBytes],
      ['zsync 0.6', zsyncBytes],
      ['xdelta3 -9 (a pair only)', xdelta3Bytes],
      ['zstd -3 --patch-from (a pair only)', zstdPatchBytes],
    ] as const) {
      rows.push({ name, ours, peer: await measure(from, to), peerName, unit: 'bytes', bound })
      process.stderr.write(`  ${name}: ours ${ours}, ${peerName} ${rows.at(-1)?.peer}, blocks alone ${bound}\n`)
    }
  }
  return rows
}

function ourBytes(from: string, to: string): number {
  const held = new Set<string>()
  const old = indexArtifact(from).index
  for (let at = 0; at < old.count; at += 1) held.add(chunkHash(old, at))
  const next = indexArtifact(to).index
  let bytes = indexBytes(next.count)
  for (let at = 0; at < next.count; at += 1) {
    if (held.has(chunkHash(next, at))) continue
    held.add(chunkHash(next, at))
    bytes += next.lengths[at] ?? 0
  }
  return bytes
}

/** Bytes of the compressed blocks of the second image that the first has nowhere, without any index. */
function blockBytes(from: string, to: string): number {
  const held = new Set(blocks(from).map(({ hash }) => hash))
  let bytes = 0
  for (const { hash, lengthBytes } of blocks(to)) {
    if (held.has(hash)) continue
    held.add(hash)
    bytes += lengthBytes
  }
  return bytes
}

/** Every data and fragment block, and after them every block of the inode and directory tables. */
function blocks(path: string): { readonly hash: string; readonly lengthBytes: number }[] {
  const image = readFileSync(path)
  const ends = [...(squashfsBoundaries((at, length) => image.subarray(at, at + length), image.length) ?? [])]
  if (ends.length === 0) throw new Error(`${path} is no squashfs whose blocks can be read`)
  const fragmentTable = Number(image.readBigUInt64LE(80))
  const tables = image.readUInt32LE(16) > 0 ? Number(image.readBigUInt64LE(fragmentTable)) : image.length
  for (let at = ends.at(-1) ?? 0; at < tables; ) ends.push((at += 2 + (image.readUInt16LE(at) & 0x7fff)))
  return [...ends, image.length].map((end, at) => {
    const block = image.subarray(ends[at - 1] ?? 0, end)
    return { hash: createHash('sha256').update(block).digest('hex'), lengthBytes: block.length }
  })
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

/** What the server sent to zsync, and the control file. */
async function zsyncBytes(from: string, to: string): Promise<number> {
  const directory = mkdtempSync(join(tmpdir(), 'flotilla-zsync-'))
  const server = await serveRanges(to)
  try {
    const control = join(directory, 'image.zsync')
    execFileSync('zsyncmake', ['-Z', '-u', server.url, '-o', control, to], { stdio: 'ignore' })
    const out = join(directory, 'out')
    await promisify(execFile)('zsync', ['-q', '-i', from, '-o', out, control], {
      env: { PATH: process.env['PATH'] },
    })
    execFileSync('cmp', [to, out])
    return server.sentBytes() + statSync(control).size
  } finally {
    server.close()
    rmSync(directory, { recursive: true })
  }
}

/** Serves a file in parts, as zsync asks for them: several ranges in one request. Counts bodies, part headers included. */
async function serveRanges(
  path: string,
): Promise<{ readonly url: string; readonly sentBytes: () => number; readonly close: () => void }> {
  const file = readFileSync(path)
  let sent = 0
  const server = createServer((request, response) => {
    const ranges = [...(request.headers.range ?? '').matchAll(/(\d+)-(\d+)/g)].map(
      ([, first, last]) => [Number(first), Math.min(Number(last), file.length - 1)] as const,
    )
    const contentRange = ([first, last]: readonly [number, number]) => `bytes ${first}-${last}/${file.length}`
    const [only] = ranges
    const parts: Uint8Array[] = []
    const head: Record<string, string> = {}
    if (only === undefined) parts.push(file)
    else if (ranges.length === 1) {
      head['content-range'] = contentRange(only)
      parts.push(file.subarray(only[0], only[1] + 1))
    } else {
      head['content-type'] = 'multipart/byteranges; boundary=part'
      for (const range of ranges) {
        parts.push(Buffer.from(`\r\n--part\r\nContent-Range: ${contentRange(range)}\r\n\r\n`))
        parts.push(file.subarray(range[0], range[1] + 1))
      }
      parts.push(Buffer.from('\r\n--part--\r\n'))
    }
    const body = Buffer.concat(parts)
    sent += body.length
    response.writeHead(only === undefined ? 200 : 206, { ...head, 'content-length': body.length })
    response.end(body)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  return {
    url: `http://127.0.0.1:${port}/image`,
    sentBytes: () => sent,
    close: () => {
      server.close()
      server.closeAllConnections()
    },
  }
}

/** A patch for this pair alone, made with a window over all of the first image. */
function xdelta3Bytes(from: string, to: string): number {
  return patchBytes((patch) => ['xdelta3', '-e', '-9', '-S', 'none', '-B', '536870912', '-s', from, to, patch])
}

function zstdPatchBytes(from: string, to: string): number {
  return patchBytes((patch) => ['zstd', '-q', '-3', '--long=31', `--patch-from=${from}`, to, '-o', patch])
}

function patchBytes(command: (patch: string) => readonly string[]): number {
  const directory = mkdtempSync(join(tmpdir(), 'flotilla-patch-'))
  try {
    const patch = join(directory, 'patch')
    const [program = '', ...args] = command(patch)
    execFileSync(program, args, { stdio: 'ignore' })
    return statSync(patch).size
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
