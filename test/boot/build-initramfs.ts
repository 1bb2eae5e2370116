import { execFileSync } from 'node:child_process'
import { chmodSync, copyFileSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { CACHE } from '../fleet/build-images.ts'

const INIT_SOURCES = resolve(import.meta.dirname, '../../buildroot/package/flotilla-init')
/** What a board's kernel has built in and Debian's has as modules. */
const MODULES = [
  'virtio_pci',
  'virtio_blk',
  'vfat',
  'nls_cp437',
  'nls_ascii',
  'loop',
  'squashfs',
  'overlay',
  'softdog',
  'algif_hash',
]

/** Debian's kernel, as the images of the fleets carry it. @throws when the images were not built */
export function debianKernel(): string {
  const directory = join(CACHE, 'trees/kernel/boot')
  const name = readdirSync(directory).find((file) => file.startsWith('vmlinuz'))
  if (name === undefined) throw new Error(`no kernel in ${directory}; build the images first`)
  return join(directory, name)
}

/** The initramfs of a device, with the modules that this kernel needs. Made as the Buildroot package makes it. */
export function buildInitramfs(directory: string): string {
  const tree = join(directory, 'initramfs')
  mkdirSync(join(tree, 'modules'), { recursive: true })
  const warnings = ['-Wall', '-Wextra', '-Werror']
  const sources = readdirSync(INIT_SOURCES)
    .filter((name) => name.endsWith('.c'))
    .map((name) => join(INIT_SOURCES, name))
  execFileSync('gcc', ['-static', '-Os', '-s', ...warnings, '-o', join(tree, 'init'), ...sources], {
    stdio: 'inherit',
  })
  for (const [at, path] of moduleFiles(directory).entries())
    copyFileSync(path, join(tree, 'modules', `${String(at).padStart(2, '0')}-${basename(path)}`))
  const file = join(directory, 'initramfs.cpio.gz')
  execFileSync('sh', [
    '-c',
    `cd '${tree}' && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 | gzip -1 > '${file}'`,
  ])
  return file
}

/** The files of the modules and of what they depend on, in the order in which they load. */
function moduleFiles(directory: string): readonly string[] {
  const [version = ''] = readdirSync(join(CACHE, 'trees/kernel/lib/modules'))
  const root = join(directory, 'kernel')
  execFileSync('cp', ['-al', join(CACHE, 'trees/kernel/lib'), mkdir(root)])
  execFileSync('depmod', ['-b', root, version])
  const files = MODULES.flatMap((name) => {
    const text = execFileSync('modprobe', ['-d', root, '-S', version, '--show-depends', name], { encoding: 'utf8' })
    return [...text.matchAll(/^insmod (\S+)/gm)].map(([, path = '']) => path)
  })
  const kept = [...new Set(files)].map((path) => {
    const copy = join(mkdir(join(directory, 'ko')), basename(path))
    copyFileSync(path, copy)
    return copy
  })
  rmSync(root, { recursive: true })
  return kept
}

function mkdir(path: string): string {
  mkdirSync(path, { recursive: true })
  return path
}

/** A root of one static program, whose init is a script. */
export function buildRoot(tree: string, script: string): void {
  for (const name of ['sbin', 'bin', 'dev', 'proc', 'sys', 'boot', 'mnt', 'usr/lib', 'tmp', 'etc'])
    mkdirSync(join(tree, name), { recursive: true })
  symlinkSync('usr/lib', join(tree, 'lib')) // merged, as with systemd
  copyFileSync(join(CACHE, 'trees/base/bin/busybox'), join(tree, 'bin/busybox'))
  writeFileSync(join(tree, 'sbin/init'), `#!/bin/busybox sh\nb=/bin/busybox\n${script}\n`)
  chmodSync(join(tree, 'sbin/init'), 0o755)
}
