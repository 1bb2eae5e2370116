import { spawnSync } from 'node:child_process'
import {
  closeSync,
  cpSync,
  existsSync,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { missingPackages } from '../buildroot/host-programs.ts'
import type { BoardLayout, RawImage } from '../layers/board.ts'
import { type DiskPlan, type PartitionPlan, planDiskImage, requireApart, sfdiskScript } from './plan-disk-image.ts'

/** The programs that make file systems, with their Debian packages. */
const PROGRAMS = {
  sfdisk: 'fdisk',
  'mkfs.vfat': 'dosfstools',
  mcopy: 'mtools',
  mke2fs: 'e2fsprogs',
  debugfs: 'e2fsprogs',
}
/** Without root they are not on everybody's PATH. */
const PATH = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`

export type DiskImageOptions = {
  readonly layout: BoardLayout
  readonly efi: boolean
  /** What `flotilla device create` laid out: boot, persist, agent.yaml. */
  readonly device: string
  /** What the build left: boot loaders and boot files. */
  readonly images: string
  readonly file: string
  readonly bootPartitionBytes: number | undefined
  readonly totalBytes: number | undefined
}

/**
 * Makes a disk image of a device that was laid out: the boot loader where the boot ROM reads it, boot area and persist as the
 * device has them. Needs neither root nor loop devices; all files belong to root. The file appears when it is whole, and only
 * its owner may read it: it holds the device's key. What the boot loader is told (entries, scripts) is part of the boot area.
 * @returns the plan that was carried out
 * @throws FlotillaError NOT_FOUND naming what is missing, ALREADY_EXISTS, NOT_ENOUGH_SPACE, BUILD_FAILED
 */
export function writeDiskImage(options: DiskImageOptions): DiskPlan {
  requirePrograms()
  const { layout, file, images } = options
  if (existsSync(file)) throw new FlotillaError('ALREADY_EXISTS', `make image ${file}: it exists`)
  requireFiles(layout, images)
  const scratch = mkdtempSync(`${file}.parts-`)
  const unfinished = `${file}.new`
  try {
    const { boot, persist } = gather(options, scratch)
    const plan = planDiskImage({ ...options, bootBytes: sizeOf(boot), persistBytes: sizeOf(persist) })
    requireApart(
      plan.raw.map((raw) => ({ ...raw, sizeBytes: statSync(join(images, raw.file)).size })),
      layout.table,
    )
    const image = openSync(unfinished, 'w', 0o600)
    try {
      ftruncateSync(image, plan.lengthBytes)
    } finally {
      closeSync(image)
    }
    run('sfdisk', ['--quiet', '--no-reread', '--no-tell-kernel', unfinished], sfdiskScript(plan))
    makeBoot(unfinished, plan.partitions[0], boot)
    makePersist(unfinished, plan.partitions[1], persist)
    for (const raw of plan.raw) writeRaw(unfinished, raw, join(images, raw.file))
    renameSync(unfinished, file)
    return plan
  } catch (cause) {
    rmSync(unfinished, { force: true })
    if (cause instanceof FlotillaError) throw cause
    throw new FlotillaError('BUILD_FAILED', `make image ${file}: ${messageOf(cause)}`, { cause })
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

function requirePrograms(): void {
  const missing = missingPackages(PROGRAMS, PATH)
  if (missing.length > 0)
    throw new FlotillaError('NOT_FOUND', `make image: the host lacks programs; apt-get install ${missing.join(' ')}`)
}

function requireFiles({ raw, bootFiles }: BoardLayout, images: string): void {
  const wanted = [...raw.map(({ file }) => file), ...(bootFiles === undefined ? [] : [bootFiles])]
  const missing = [...new Set(wanted)].filter((name) => !existsSync(join(images, name)))
  if (missing.length > 0)
    throw new FlotillaError(
      'NOT_FOUND',
      `make image: ${images} lacks ${missing.join(', ')}, which this board boots with; the build does not make it by itself, or did not end: see the board's layer`,
    )
}

/** The two trees as they will be: links would be followed by some of the programs and not by others. */
function gather({ layout, device, images }: DiskImageOptions, scratch: string): { boot: string; persist: string } {
  const [boot, persist] = [join(scratch, 'boot'), join(scratch, 'persist')]
  for (const name of ['boot', 'persist', 'agent.yaml'])
    if (!existsSync(join(device, name)))
      throw new FlotillaError('NOT_FOUND', `make image: ${device} has no ${name}; make it with flotilla device create`)
  const config = readFileSync(join(device, 'agent.yaml'), 'utf8')
  if (/^(boot|persist): /m.test(config) && !/^boot: \/boot$/m.test(config))
    throw new FlotillaError(
      'BAD_INPUT',
      `make image: ${device}/agent.yaml has the paths of a directory; make it with flotilla device create --for-image`,
    )
  // The device's own come last: they say what boots. Buildroot's entries for its own disk layout are not ours.
  if (layout.bootFiles !== undefined) {
    cpSync(join(images, layout.bootFiles), boot, { recursive: true, dereference: true })
    rmSync(join(boot, 'loader'), { recursive: true, force: true })
    // What the Pi's firmware is told for the board; the device's own config.txt includes it.
    if (existsSync(join(boot, 'config.txt'))) renameSync(join(boot, 'config.txt'), join(boot, 'board.txt'))
    rmSync(join(boot, 'cmdline.txt'), { force: true })
  }
  cpSync(join(device, 'boot'), boot, { recursive: true })
  mkdirSync(persist)
  cpSync(join(device, 'persist'), join(persist, 'flotilla'), { recursive: true })
  cpSync(join(device, 'agent.yaml'), join(persist, 'flotilla/agent.yaml'))
  return { boot, persist }
}

/** Of all files below, each counted as whole clusters. */
function sizeOf(path: string): number {
  const stat = lstatSync(path)
  if (!stat.isDirectory()) return Math.ceil(stat.size / 4_096) * 4_096
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 4_096)
}

function makeBoot(image: string, { name, startBytes, lengthBytes }: PartitionPlan, tree: string): void {
  const size = ['--offset', String(startBytes / 512), image, String(lengthBytes / 1_024)]
  run('mkfs.vfat', ['-F', '32', '-s', '8', '-S', '512', '-n', name, ...size])
  const names = readdirSync(tree).map((entry) => join(tree, entry))
  if (names.length > 0) run('mcopy', ['-Q', '-s', '-i', `${image}@@${startBytes}`, ...names, '::'])
}

function makePersist(image: string, { name, startBytes, lengthBytes }: PartitionPlan, tree: string): void {
  // `resize_inode` and room for group descriptors: it grows to the medium on the device.
  const extended = `offset=${startBytes},root_owner=0:0,lazy_itable_init=0`
  // Not the profile for small file systems: its share of inodes and its journal would stay when it grows to a terabyte.
  const profile = ['-t', 'ext4', '-T', 'default', '-b', '4096', '-i', '16384', '-J', 'size=16', '-E', extended]
  run('mke2fs', ['-q', '-F', ...profile, '-L', name, '-d', tree, image, `${lengthBytes / 1_024}k`])
  // They belonged to whoever made the image; on the device that number is another user's.
  const paths = pathsIn(tree, '')
  const odd = paths.find((path) => /["\n\\]/.test(path))
  if (odd !== undefined)
    throw new FlotillaError(
      'BAD_INPUT',
      `make image: ${JSON.stringify(odd)} has a character that a file name here may not have`,
    )
  const owners = paths.flatMap((path) => [`sif "${path}" uid 0`, `sif "${path}" gid 0`])
  const said = run('debugfs', ['-w', '-f', '-', `${image}?offset=${startBytes}`], `${owners.join('\n')}\n`)
  // It ends well whatever its commands did; it says so, besides its name and version.
  const problem = said.split('\n').find((line) => line !== '' && !line.startsWith('debugfs '))
  if (problem !== undefined) throw new FlotillaError('BUILD_FAILED', `debugfs: ${problem}`)
}

function pathsIn(root: string, prefix: string): readonly string[] {
  return readdirSync(join(root, prefix), { withFileTypes: true }).flatMap((entry) => {
    const path = `${prefix}/${entry.name}`
    return entry.isDirectory() ? [path, ...pathsIn(root, path)] : [path]
  })
}

function writeRaw(image: string, { file, atBytes, fromBytes, lengthBytes }: RawImage, source: string): void {
  const bytes = readFileSync(source)
  const part = bytes.subarray(fromBytes, lengthBytes === undefined ? bytes.length : fromBytes + lengthBytes)
  if (part.length === 0) throw new FlotillaError('BAD_INPUT', `make image: ${file} ends before byte ${fromBytes}`)
  const out = openSync(image, 'r+')
  try {
    writeSync(out, part, 0, part.length, atBytes)
  } finally {
    closeSync(out)
  }
}

/** @returns what it said on stderr. @throws FlotillaError BUILD_FAILED */
function run(program: string, args: readonly string[], input = ''): string {
  const env = { ...process.env, PATH, MTOOLS_SKIP_CHECK: '1' }
  const { status, stderr, error } = spawnSync(program, args, { input, env, encoding: 'utf8' })
  if (status === 0) return stderr
  const why = error?.message ?? stderr.trim().split('\n').at(-1) ?? `ended with ${status}`
  throw new FlotillaError('BUILD_FAILED', `${program}: ${why}`)
}
