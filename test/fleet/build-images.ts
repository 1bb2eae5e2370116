import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
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
const ADDED_PACKAGE = 'restic'
const KERNEL_META = 'linux-image-cloud-amd64'

/** Image directories as a build would leave them: two boards, two releases, one of them broken. */
export type ImageSet = {
  readonly r1: string
  readonly r2: string
  readonly bad: string
  readonly r3: string
  readonly loader: string
  readonly agent: string
  readonly flotilla: string
}

const INIT = `#!/bin/sh
# Init of a simulated device: unpacks what it needs of its root file system, then becomes the agent.
set -e
slot="$FLOTILLA_DEVICE/boot/releases/$FLOTILLA_SLOT"
rm -rf "$FLOTILLA_DEVICE/run/rootfs"
unsquashfs -q -n -no-xattrs -d "$FLOTILLA_DEVICE/run/rootfs" "$slot/rootfs.squashfs" usr/lib/flotilla etc/flotilla > /dev/null
exec "\${FLOTILLA_NODE:-node}" --max-semi-space-size=1 "$FLOTILLA_DEVICE/run/rootfs/usr/lib/flotilla/flotilla-agent.mjs" agent run --config "$FLOTILLA_DEVICE/agent.yaml"
`

/**
 * Builds the images: a Debian kernel, its modules as squashfs, a root file system as squashfs with the agent inside,
 * 120 MB and more together. Unpacked packages are kept in the cache; the squashfs are made anew when the agent changed.
 */
export async function buildImages(log: (line: string) => void): Promise<ImageSet> {
  const programs = await bundlePrograms(resolve(import.meta.dirname, '../..'), join(CACHE, 'programs'))
  const base = unpack('base', BASE_PACKAGES, log)
  const added = unpack('added', [ADDED_PACKAGE], log)
  const kernel = unpackKernel(log)
  const set = {
    r1: join(CACHE, 'images/r1'),
    r2: join(CACHE, 'images/r2'),
    bad: join(CACHE, 'images/bad'),
    r3: join(CACHE, 'images/r3'),
    loader: programs['directory-loader'],
    agent: programs['flotilla-agent'],
    flotilla: programs.flotilla,
  }
  if (!existsSync(join(CACHE, 'modules.squashfs'))) squash(join(kernel, 'lib'), join(CACHE, 'modules.squashfs'))
  const variants: readonly { path: string; trees: string[]; marker: string; check: string }[] = [
    {
      path: set.r1,
      trees: [base],
      marker: 'release 1',
      check: 'test -s "$FLOTILLA_DEVICE/run/rootfs/etc/flotilla/release"',
    },
    {
      path: set.r2,
      trees: [base, added],
      marker: 'release 2',
      check: 'test -s "$FLOTILLA_DEVICE/run/rootfs/etc/flotilla/release"',
    },
    {
      path: set.bad,
      trees: [base, added],
      marker: 'release bad',
      check: 'echo "the arm does not answer on /dev/ttyUSB0"; exit 1',
    },
    {
      path: set.r3,
      trees: [base, added],
      marker: 'release 3',
      check: 'test -s "$FLOTILLA_DEVICE/run/rootfs/etc/flotilla/release"',
    },
  ]
  for (const variant of variants) {
    log(`images: ${variant.marker}`)
    rmSync(variant.path, { recursive: true, force: true })
    mkdirSync(variant.path, { recursive: true })
    const tree = join(CACHE, 'rootfs')
    rmSync(tree, { recursive: true, force: true })
    for (const source of variant.trees) cpSync(source, tree, { recursive: true, verbatimSymlinks: true })
    addFlotilla(tree, programs['flotilla-agent'], variant.marker, variant.check)
    squash(tree, join(variant.path, 'rootfs.squashfs'))
    copyFileSync(join(CACHE, 'modules.squashfs'), join(variant.path, 'modules.squashfs'))
    const vmlinuz = readdirSync(join(kernel, 'boot')).find((name) => name.startsWith('vmlinuz'))
    copyFileSync(join(kernel, 'boot', vmlinuz ?? ''), join(variant.path, 'vmlinuz'))
    writeFileSync(join(variant.path, 'init'), INIT)
  }
  return set
}

function addFlotilla(tree: string, agent: string, marker: string, check: string): void {
  const checks = join(tree, 'etc/flotilla/health/required.d')
  for (const directory of [checks, join(tree, 'usr/lib/flotilla'), join(tree, 'usr/bin')])
    mkdirSync(directory, { recursive: true })
  copyFileSync(agent, join(tree, 'usr/lib/flotilla/flotilla-agent.mjs'))
  writeFileSync(join(tree, 'etc/flotilla/release'), `${marker}\n`)
  writeFileSync(join(checks, '10-arm'), `#!/bin/sh\n${check}\n`)
  chmodSync(join(checks, '10-arm'), 0o755)
  copyFileSync(process.execPath, join(tree, 'usr/bin/node'))
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

function squash(tree: string, file: string): void {
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
