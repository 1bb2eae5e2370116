import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { CACHE } from '../fleet/build-images.ts'

export type Arch = 'x86_64' | 'aarch64'
const DEBIAN = { x86_64: 'amd64', aarch64: 'arm64' } as const
/** The one for clouds, which the fleets' images carry, starts faster; the other has drivers for all that a board has. */
export type Flavour = 'cloud' | 'full'
const KERNELS = { x86_64: 'linux-image-amd64', aarch64: 'linux-image-arm64' } as const

/** The tree of Debian's kernel for an architecture: `boot` and `lib/modules`. For arm64 there is only one. */
export function kernelTree(arch: Arch, flavour: Flavour): string {
  if (arch === 'x86_64' && flavour === 'cloud') return join(CACHE, 'trees/kernel')
  return debianTree(arch, 'kernel', (options) => {
    const depends = execFileSync('apt-cache', ['depends', '--important', ...options, KERNELS[arch]], {
      encoding: 'utf8',
    })
    const image = /Depends: (linux-image-\S+)/.exec(depends)?.[1]
    if (image === undefined) throw new Error(`apt-cache knows no kernel behind ${KERNELS[arch]}`)
    return [image]
  })
}

/** The kernel itself. @throws when the images of the fleets were not built */
export function kernelOf(arch: Arch, flavour: Flavour = 'cloud'): string {
  const directory = join(kernelTree(arch, flavour), 'boot')
  const name = readdirSync(directory).find((file) => file.startsWith('vmlinuz'))
  if (name === undefined) throw new Error(`no kernel in ${directory}`)
  return join(directory, name)
}

/**
 * Debian packages of an architecture, unpacked, not installed, kept in the cache. It has a package list of its own: the machine's
 * architectures are left as they are.
 */
export function debianTree(
  arch: Arch,
  name: string,
  choose: (options: readonly string[]) => readonly string[],
): string {
  const tree = join(CACHE, 'trees', `${name}-${arch}`)
  if (existsSync(tree)) return tree
  const state = join(CACHE, 'apt', arch)
  const debs = join(CACHE, 'debs', `${name}-${arch}`)
  for (const path of ['lists/partial', 'archives/partial']) mkdirSync(join(state, path), { recursive: true })
  mkdirSync(debs, { recursive: true })
  const options = [
    ...['-o', `APT::Architecture=${DEBIAN[arch]}`, '-o', `APT::Architectures::=${DEBIAN[arch]}`],
    ...['-o', `Dir::State::Lists=${join(state, 'lists')}`, '-o', 'Dir::State::status=/dev/null'],
    ...['-o', `Dir::Cache=${state}`, '-o', 'APT::Sandbox::User=root'],
  ]
  const quiet = { stdio: ['ignore', 'ignore', 'inherit'] as ['ignore', 'ignore', 'inherit'] }
  execFileSync('apt-get', ['update', '-qq', ...options], quiet)
  execFileSync('apt-get', ['download', '-qq', ...options, ...choose(options)], { cwd: debs, ...quiet })
  const temporary = `${tree}.new`
  rmSync(temporary, { recursive: true, force: true })
  // Merged, as an installed system is: packages of Debian 12 still have both.
  for (const path of ['bin', 'sbin', 'lib']) {
    mkdirSync(join(temporary, 'usr', path), { recursive: true })
    symlinkSync(`usr/${path}`, join(temporary, path))
  }
  if (arch === 'x86_64') {
    mkdirSync(join(temporary, 'usr/lib64'))
    symlinkSync('usr/lib64', join(temporary, 'lib64'))
  }
  for (const deb of readdirSync(debs)) {
    const unpack = `dpkg-deb --fsys-tarfile '${join(debs, deb)}' | tar -x --keep-directory-symlink -C '${temporary}'`
    execFileSync('sh', ['-c', unpack], quiet)
  }
  renameSync(temporary, tree)
  return tree
}
