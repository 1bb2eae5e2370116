import { execFileSync } from 'node:child_process'
import { createCipheriv, createHash } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join, resolve } from 'node:path'
import { bundlePrograms } from '../../builder/images/bundle-programs.ts'

/** Where downloads and images of the tests are kept between runs. */
export const CACHE = resolve(import.meta.dirname, '../../.cache')

/** Packages in the root file system of release 1; release 2 adds one. All from Debian, unpacked, not installed. */
const BASE_PACKAGES = [
  'docker.io',
  'containerd',
  'runc',
  'git',
  'perl-modules-5.36',
  'libpython3.11-stdlib',
  'busybox-static',
]
const SMALL_PACKAGES = ['busybox-static']
const ADDED_PACKAGE = 'restic'
const KERNEL_META = 'linux-image-cloud-amd64'

/** Image directories as a build would leave them, and the bundled programs. `bad` fails its own health check. */
export type ImageSet = {
  readonly r1: string
  readonly r2: string
  readonly r3: string
  readonly r4: string
  readonly bad: string
  readonly loader: string
  readonly agent: string
  readonly flotilla: string
}

/** Where `buildImages` leaves everything. Releases of 200 MB, as SkiffOS has them, differ by 10 to 20 MB. */
export function imageSet(): ImageSet {
  return imagesUnder('images/full')
}

/** The same with a tenth of what stays the same: for tests that need many fleets, of which each device copies it. */
export function smallImageSet(): ImageSet {
  return imagesUnder('images/small')
}

function imagesUnder(directory: string): ImageSet {
  const image = (name: string) => join(CACHE, directory, name)
  const program = (name: string) => join(CACHE, 'programs', `${name}.mjs`)
  return {
    r1: image('r1'),
    r2: image('r2'),
    r3: image('r3'),
    r4: image('r4'),
    bad: image('bad'),
    loader: program('directory-loader'),
    agent: program('flotilla-agent'),
    flotilla: program('flotilla'),
  }
}

const INIT = `#!/bin/sh
# Init of a simulated device: unpacks what it needs of its root file system, then becomes the agent.
set -e
slot="$FLOTILLA_DEVICE/boot/releases/$FLOTILLA_SLOT"
rm -rf "$FLOTILLA_DEVICE/run/rootfs"
unsquashfs -q -n -no-xattrs -d "$FLOTILLA_DEVICE/run/rootfs" "$slot/rootfs.squashfs" usr/lib/flotilla etc/flotilla > /dev/null
exec "\${FLOTILLA_NODE:-node}" --max-semi-space-size=4 "$FLOTILLA_DEVICE/run/rootfs/usr/lib/flotilla/flotilla-agent.mjs" agent run --config "$FLOTILLA_DEVICE/agent.yaml"
`

/**
 * Builds both sets of images: a Debian kernel, its modules as squashfs, a root file system as squashfs with the agent
 * inside. Unpacked packages are kept in the cache; images are made anew when the agent changed.
 * @returns the full set
 */
export async function buildImages(log: (line: string) => void): Promise<ImageSet> {
  const programs = await bundlePrograms(resolve(import.meta.dirname, '../..'), join(CACHE, 'programs'))
  const stamp = createHash('sha256')
    .update(readFileSync(programs['flotilla-agent']))
    .update(readFileSync(import.meta.filename))
    .digest('hex')
  const stampFile = join(CACHE, 'images/stamp')
  if (existsSync(stampFile) && readFileSync(stampFile, 'latin1') === stamp) return imageSet()
  rmSync(join(CACHE, 'images'), { recursive: true, force: true })
  const base = unpack('base', BASE_PACKAGES, log)
  const small = unpack('small', SMALL_PACKAGES, log)
  const added = unpack('added', [ADDED_PACKAGE], log)
  const kernel = unpackKernel(log)
  const modules = join(CACHE, 'modules.squashfs')
  if (!existsSync(modules)) squash(join(kernel, 'lib'), modules)
  const vmlinuz = readdirSync(join(kernel, 'boot')).find((name) => name.startsWith('vmlinuz')) ?? ''
  const shared = { agent: programs['flotilla-agent'], vmlinuz: join(kernel, 'boot', vmlinuz), modules }
  log('images: full')
  buildVariants(imageSet(), base, added, { ...shared, node: process.execPath })
  log('images: small')
  const few = join(CACHE, 'images/few-modules.squashfs')
  writeFileSync(few, incompressible('modules', 2 ** 20))
  buildVariants(smallImageSet(), small, added, { ...shared, modules: few, node: undefined })
  writeFileSync(stampFile, stamp)
  return imageSet()
}

/** What all images of a set have in common. */
type SharedParts = {
  readonly agent: string
  readonly vmlinuz: string
  readonly modules: string
  /** Devices run the Node of the test; a real image has one of its own. */
  readonly node: string | undefined
}

function buildVariants(set: ImageSet, base: string, added: string, shared: SharedParts): void {
  const good = 'test -s "$FLOTILLA_DEVICE/run/rootfs/etc/flotilla/release"'
  const variants: readonly Variant[] = [
    { path: set.r1, trees: [base], name: 'r1', payloadMiB: 0, check: good },
    { path: set.r2, trees: [base, added], name: 'r2', payloadMiB: 0, check: good },
    { path: set.r3, trees: [base, added], name: 'r3', payloadMiB: 8, check: good },
    { path: set.r4, trees: [base, added], name: 'r4', payloadMiB: 8, check: good },
    {
      path: set.bad,
      trees: [base, added],
      name: 'bad',
      payloadMiB: 2,
      check: 'echo "the arm does not answer on /dev/ttyUSB0"; exit 1',
    },
  ]
  for (const variant of variants) buildVariant(variant, shared)
}

type Variant = {
  readonly path: string
  readonly trees: readonly string[]
  readonly name: string
  /** Data that no other release has, besides what the packages change. */
  readonly payloadMiB: number
  readonly check: string
}

function buildVariant(variant: Variant, { agent, vmlinuz, modules, node }: SharedParts): void {
  rmSync(variant.path, { recursive: true, force: true })
  mkdirSync(variant.path, { recursive: true })
  const tree = join(CACHE, 'rootfs')
  rmSync(tree, { recursive: true, force: true })
  for (const source of variant.trees) cpSync(source, tree, { recursive: true, verbatimSymlinks: true })
  addFlotilla(tree, agent, variant.name, variant.check)
  if (node !== undefined) copyFileSync(node, join(tree, 'usr/bin/node'))
  if (variant.payloadMiB > 0)
    writeFileSync(join(tree, 'usr/share/payload'), incompressible(variant.name, variant.payloadMiB * 2 ** 20))
  squash(tree, join(variant.path, 'rootfs.squashfs'))
  copyFileSync(modules, join(variant.path, 'modules.squashfs'))
  copyFileSync(vmlinuz, join(variant.path, 'vmlinuz'))
  writeFileSync(join(variant.path, 'init'), INIT)
}

/** Bytes that look random and are the same in every run. */
export function incompressible(name: string, lengthBytes: number): Uint8Array {
  const cipher = createCipheriv(
    'aes-128-ctr',
    createHash('sha256').update(name).digest().subarray(0, 16),
    Buffer.alloc(16),
  )
  return cipher.update(Buffer.alloc(lengthBytes))
}

/** Copies the agent's bundle, with what it loads later. @param directory - made if it is not there */
export function copyAgent(agent: string, directory: string): void {
  cpSync(agent, join(directory, 'flotilla-agent.mjs'))
  cpSync(agent.replace(/\.mjs$/, ''), join(directory, 'flotilla-agent'), { recursive: true })
}

function addFlotilla(tree: string, agent: string, marker: string, check: string): void {
  const checks = join(tree, 'etc/flotilla/health/required.d')
  for (const directory of [checks, join(tree, 'usr/bin')]) mkdirSync(directory, { recursive: true })
  copyAgent(agent, join(tree, 'usr/lib/flotilla'))
  writeFileSync(join(tree, 'etc/flotilla/release'), `${marker}\n`)
  writeFileSync(join(checks, '10-arm'), `#!/bin/sh\n${check}\n`)
  chmodSync(join(checks, '10-arm'), 0o755)
}

function unpack(name: string, packages: readonly string[], log: (line: string) => void): string {
  const directory = join(CACHE, 'trees', name)
  if (existsSync(directory)) return directory
  log(`download and unpack ${packages.join(', ')}`)
  const debs = join(CACHE, 'debs', name)
  mkdirSync(debs, { recursive: true })
  execFileSync('apt-get', ['download', '-qq', '-o', 'APT::Sandbox::User=root', ...packages], {
    cwd: debs,
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const temporary = `${directory}.new`
  rmSync(temporary, { recursive: true, force: true })
  mkdirSync(temporary, { recursive: true })
  for (const deb of readdirSync(debs)) execFileSync('dpkg-deb', ['-x', join(debs, deb), temporary])
  renameSync(temporary, directory)
  return directory
}

function unpackKernel(log: (line: string) => void): string {
  const depends = execFileSync('apt-cache', ['depends', '--important', KERNEL_META], { encoding: 'utf8' })
  const name = /Depends: (linux-image-\S+)/.exec(depends)?.[1]
  if (name === undefined) throw new Error(`apt-cache knows no kernel behind ${KERNEL_META}; run apt-get update`)
  return unpack('kernel', [name], log)
}

/** The image of a tree, as a reproducible build makes it. */
export function squash(tree: string, file: string): void {
  rmSync(file, { force: true })
  execFileSync(
    'mksquashfs',
    [
      tree,
      file,
      '-quiet',
      '-no-progress',
      '-comp',
      'zstd',
      '-Xcompression-level',
      '3',
      '-all-root',
      '-no-xattrs',
      '-mkfs-time',
      '0',
      '-all-time',
      '0',
    ],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  )
}
