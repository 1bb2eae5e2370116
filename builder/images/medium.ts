import { execFileSync, spawnSync } from 'node:child_process'
import { createHash, type Hash } from 'node:crypto'
import { closeSync, constants, fsyncSync, openSync, readSync, statSync, writeSync } from 'node:fs'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { parseJson, shape } from '../../protocol/shape.ts'
import { formatBytes } from '../../protocol/terminal/print.ts'
import type { ByteRange, DiskTable } from './plan-install.ts'

/** A block device as `lsblk` describes it, with what lies on it. */
export type Medium = {
  readonly path: string
  /** `disk`, `part`, `loop`, `rom` … */
  readonly type: string
  readonly lengthBytes: number
  readonly readOnly: boolean
  readonly model: string
  /** Where it and what lies on it is mounted, or `[SWAP]`. */
  readonly mounts: readonly string[]
  /** What other block devices (RAID, LVM, encryption) are made of it. */
  readonly holders: readonly string[]
}

const COLUMNS = 'PATH,TYPE,SIZE,RO,MODEL,MOUNTPOINTS'
const MAX_BYTES = 2 ** 20
const BLOCK = 4 * 2 ** 20

/** @throws FlotillaError NOT_FOUND when it is no block device */
export function readMedium(path: string): Medium {
  let text: Buffer
  try {
    text = execFileSync('lsblk', ['--json', '--bytes', '--output', COLUMNS, path], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
  } catch (cause) {
    const words = String((cause as { stderr?: Buffer }).stderr ?? '').trim() || messageOf(cause)
    throw new FlotillaError('NOT_FOUND', `look at ${path}: ${words}`, { cause })
  }
  return parseMedium(parseJson(text, 'lsblk', MAX_BYTES))
}

/** What `lsblk --json` printed for one device. @throws FlotillaError FORMAT */
export function parseMedium(value: unknown): Medium {
  const devices = shape.array(shape.object(value, 'lsblk')['blockdevices'], 'lsblk.blockdevices', 64)
  const top = shape.object(devices[0], 'lsblk.blockdevices[0]')
  const all = [top, ...descendants(top)]
  const text = (json: Readonly<Record<string, unknown>>, key: string) => String(json[key] ?? '')
  return {
    path: text(top, 'path'),
    type: text(top, 'type'),
    lengthBytes: shape.integer(top['size'], 'lsblk.size', 0),
    readOnly: top['ro'] === true || top['ro'] === 1 || top['ro'] === '1',
    model: text(top, 'model').trim(),
    mounts: all.flatMap((json) =>
      shape
        .array(json['mountpoints'] ?? [], 'lsblk.mountpoints', 256)
        .flatMap((mount) => (typeof mount === 'string' && mount !== '' ? [mount] : [])),
    ),
    holders: all
      .slice(1)
      .filter((json) => text(json, 'type') !== 'part')
      .map((json) => text(json, 'path')),
  }
}

function descendants(json: Readonly<Record<string, unknown>>): readonly Readonly<Record<string, unknown>>[] {
  const children = shape
    .array(json['children'] ?? [], 'lsblk.children', 256)
    .map((child) => shape.object(child, 'lsblk.children[]'))
  return children.flatMap((child) => [child, ...descendants(child)])
}

/**
 * Whether an image may be written over a medium: a whole disk that nobody uses and that is large enough. Pure.
 * @throws FlotillaError BAD_INPUT, BUSY, NOT_ENOUGH_SPACE
 */
export function requireWritable(medium: Medium, imageBytes: number): void {
  const { path, type, mounts, holders } = medium
  const refuse = (code: 'BAD_INPUT' | 'BUSY', why: string): never => {
    throw new FlotillaError(code, `write to ${path}: ${why}`)
  }
  if (type !== 'disk' && type !== 'loop') refuse('BAD_INPUT', `it is a ${type}, not a whole disk`)
  if (mounts.includes('/') || mounts.includes('/boot') || mounts.includes('[SWAP]'))
    refuse('BUSY', 'this system runs from it; it is never written to')
  if (mounts.length > 0) refuse('BUSY', `it is mounted at ${mounts.join(', ')}; unmount it first`)
  if (holders.length > 0) refuse('BUSY', `${holders.join(', ')} is made of it`)
  if (medium.readOnly) refuse('BAD_INPUT', 'it is read-only; is there a lock on the card?')
  if (medium.lengthBytes < imageBytes)
    throw new FlotillaError(
      'NOT_ENOUGH_SPACE',
      `write to ${path}: the image has ${formatBytes(imageBytes)}, the medium ${formatBytes(medium.lengthBytes)}`,
    )
}

/** The partition table of a disk or an image, with the labels of its file systems. @throws FlotillaError NOT_FOUND, BAD_INPUT */
export function readTable(path: string): DiskTable {
  const { status, stdout, stderr, error } = spawnSync('sfdisk', ['--json', path], { env: withSbin(), encoding: 'utf8' })
  if (error !== undefined)
    throw new FlotillaError('NOT_FOUND', `read the table of ${path}: no sfdisk; apt-get install fdisk`, {
      cause: error,
    })
  if (status !== 0)
    throw new FlotillaError('BAD_INPUT', `read the table of ${path}: ${stderr.trim().split('\n').at(-1) ?? ''}`)
  const table = shape.object(
    shape.object(parseJson(Buffer.from(stdout), 'sfdisk', MAX_BYTES), 'sfdisk')['partitiontable'],
    'sfdisk.partitiontable',
  )
  const sector = shape.integer(table['sectorsize'] ?? 512, 'sfdisk.sectorsize', 512, 65_536)
  const partitions = shape.array(table['partitions'] ?? [], 'sfdisk.partitions', 256).map((item) => {
    const partition = shape.object(item, 'sfdisk.partitions[]')
    const startBytes = shape.integer(partition['start'], 'sfdisk.start', 0) * sector
    const lengthBytes = shape.integer(partition['size'], 'sfdisk.size', 0) * sector
    return { startBytes, lengthBytes, name: fileSystemLabel(path, startBytes, lengthBytes) }
  })
  return { path, label: shape.string(table['label'], 'sfdisk.label', 16), partitions }
}

/** Empty when there is no file system with a label. */
function fileSystemLabel(path: string, startBytes: number, lengthBytes: number): string {
  const where = ['--probe', '--offset', String(startBytes), '--size', String(lengthBytes)]
  const { stdout } = spawnSync('blkid', [...where, '-s', 'LABEL', '-o', 'value', path], {
    env: withSbin(),
    encoding: 'utf8',
  })
  return (stdout ?? '').trim()
}

/** Without root they are not on everybody's PATH. */
function withSbin(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` }
}

/**
 * Writes an image, or parts of it, to the same places of a medium, flushes, and reads them back past the cache.
 * @param ranges - undefined: the whole image
 * @param onProgress - share done of writing and reading together, 0 … 1
 * @throws FlotillaError DISK_FAILED, VERIFY_FAILED
 */
export function writeMedium(
  image: string,
  device: string,
  ranges: readonly ByteRange[] | undefined,
  onProgress: (share: number) => void,
): void {
  const parts = ranges ?? [{ fromBytes: 0, toBytes: statSync(image).size }]
  const size = parts.reduce((sum, { fromBytes, toBytes }) => sum + toBytes - fromBytes, 0)
  try {
    // Nobody can mount it meanwhile: Linux gives a block device to one that asks for it alone.
    const target = openSync(device, constants.O_RDWR | constants.O_EXCL)
    try {
      const wanted = copy(image, target, parts, (done) => onProgress(done / size / 2))
      fsyncSync(target)
      execFileSync('blockdev', ['--flushbufs', device], { stdio: 'ignore' })
      const found = createHash('sha256')
      eachBlock(target, parts, (bytes, _at, done) => {
        found.update(bytes)
        onProgress(0.5 + done / size / 2)
      })
      if (found.digest('hex') !== wanted)
        throw new FlotillaError(
          'VERIFY_FAILED',
          `write ${image} to ${device}: what is read back is not what was written; the medium is bad or counterfeit`,
        )
    } finally {
      closeSync(target)
    }
  } catch (cause) {
    if (cause instanceof FlotillaError) throw cause
    throw new FlotillaError('DISK_FAILED', `write ${image} to ${device}: ${messageOf(cause)}`, { cause })
  }
}

function copy(image: string, target: number, parts: readonly ByteRange[], onDone: (bytes: number) => void): string {
  const source = openSync(image, 'r')
  const hash: Hash = createHash('sha256')
  try {
    eachBlock(source, parts, (bytes, place, done) => {
      hash.update(bytes)
      for (let at = 0; at < bytes.length; ) at += writeSync(target, bytes, at, bytes.length - at, place + at)
      onDone(done)
    })
    return hash.digest('hex')
  } finally {
    closeSync(source)
  }
}

/** @param take - gets each block, its place in the file, and the bytes so far with it */
function eachBlock(
  file: number,
  parts: readonly ByteRange[],
  take: (bytes: Uint8Array, place: number, done: number) => void,
): void {
  const buffer = Buffer.allocUnsafe(BLOCK)
  let done = 0
  for (const { fromBytes, toBytes } of parts)
    for (let place = fromBytes; place < toBytes; ) {
      const length = readSync(file, buffer, 0, Math.min(BLOCK, toBytes - place), place)
      if (length === 0) throw new Error(`it ends at ${place} of ${toBytes} bytes`)
      done += length
      take(buffer.subarray(0, length), place, done)
      place += length
    }
}
