import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, copyFileSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { CACHE } from '../fleet/build-images.ts'
import { type Arch, type Flavour, kernelTree } from '../machine/debian-trees.ts'

const INIT_SOURCES = resolve(import.meta.dirname, '../../buildroot/package/flotilla-init')
/** What a board's kernel has built in and Debian's has as modules. */
const MODULES = [
  'virtio_pci',
  'virtio_mmio',
  'virtio_blk',
  'vfat',
  'nls_cp437',
  'nls_ascii',
  'loop',
  'squashfs',
  'overlay',
  'i6300esb',
  'softdog',
  'algif_hash',
]

/**
 * The initramfs of a device, with the modules that Debian's kernel needs. Made as the Buildroot package makes it.
 * @param directory - a scratch of its own
 */
export function buildInitramfs(directory: string, arch: Arch = 'x86_64', flavour: Flavour = 'cloud'): string {
  const tree = join(directory, 'initramfs')
  mkdirSync(join(tree, 'modules'), { recursive: true })
  compile(join(tree, 'init'), 'container.c', arch)
  for (const [at, path] of moduleFiles(directory, kernelTree(arch, flavour), MODULES).entries())
    copyFileSync(path, join(tree, 'modules', `${String(at).padStart(2, '0')}-${basename(path)}`))
  const file = join(directory, 'initramfs.cpio.gz')
  execFileSync('sh', [
    '-c',
    `cd '${tree}' && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 | gzip -1 > '${file}'`,
  ])
  return file
}

/** The loader of the family `container`. @returns the program */
export function buildContainerLoader(directory: string): string {
  const program = join(directory, 'flotilla-container')
  compile(program, 'init.c', 'x86_64')
  return program
}

/** Two programs have these sources, each but the main file of the other, as the Buildroot packages make them. */
function compile(program: string, otherMain: string, arch: Arch): void {
  const sources = readdirSync(INIT_SOURCES)
    .filter((name) => name.endsWith('.c') && name !== otherMain)
    .map((name) => join(INIT_SOURCES, name))
  const options = ['-static', '-Os', '-s', '-Wall', '-Wextra', '-Werror', '-o', program]
  execFileSync(arch === 'aarch64' ? 'aarch64-linux-gnu-gcc' : 'gcc', [...options, ...sources], { stdio: 'inherit' })
}

/**
 * The files of modules and of what they depend on, in the order in which they load. What a kernel has built in, or not at
 * all, is passed over.
 */
export function moduleFiles(directory: string, kernel: string, names: readonly string[]): readonly string[] {
  const lib = join(kernel, 'lib')
  const [version = ''] = readdirSync(join(lib, 'modules'))
  const root = join(directory, 'kernel')
  execFileSync('cp', ['-al', join(lib, 'modules'), mkdir(join(root, 'lib'))])
  execFileSync('depmod', ['-b', root, version])
  const files = names.flatMap((name) => {
    const asked = spawnSync('modprobe', ['-d', root, '-S', version, '--show-depends', name], { encoding: 'utf8' })
    return [...asked.stdout.matchAll(/^insmod (\S+)/gm)].map(([, path = '']) => path)
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
