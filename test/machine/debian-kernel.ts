import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { CACHE } from '../fleet/build-images.ts'

/** Debian's kernels: for x86 the one of the fleets' images; for arm64 there is no smaller one. */
const META = 'linux-image-arm64'

/** The tree of a kernel package: `boot` and `lib/modules`. */
export function kernelTree(arch: 'x86_64' | 'aarch64'): string {
  return arch === 'aarch64' ? foreignTree('kernel-arm64', META) : join(CACHE, 'trees/kernel')
}

/** The kernel itself. */
export function kernelOf(arch: 'x86_64' | 'aarch64'): string {
  const directory = join(kernelTree(arch), 'boot')
  const name = readdirSync(directory).find((file) => file.startsWith('vmlinuz'))
  if (name === undefined) throw new Error(`no kernel in ${directory}; build the images first`)
  return join(directory, name)
}

/** Unpacks a package of arm64, with a package list of its own: the machine's own architectures are left as they are. */
function foreignTree(name: string, meta: string): string {
  const tree = join(CACHE, 'trees', name)
  if (existsSync(tree)) return tree
  const state = join(CACHE, 'apt-arm64')
  mkdirSync(join(state, 'lists/partial'), { recursive: true })
  mkdirSync(join(state, 'archives/partial'), { recursive: true })
  const options = [
    ...['-o', 'APT::Architecture=arm64', '-o', 'APT::Architectures::=arm64', '-o', 'APT::Sandbox::User=root'],
    ...['-o', `Dir::State::Lists=${join(state, 'lists')}`, '-o', 'Dir::State::status=/dev/null'],
    ...['-o', `Dir::Cache=${state}`],
  ]
  execFileSync('apt-get', ['update', '-qq', ...options], { stdio: ['ignore', 'ignore', 'inherit'] })
  const depends = execFileSync('apt-cache', ['depends', '--important', ...options, meta], { encoding: 'utf8' })
  const image = /Depends: (linux-image-\S+)/.exec(depends)?.[1]
  if (image === undefined) throw new Error(`apt-cache knows no kernel behind ${meta}`)
  execFileSync('apt-get', ['download', '-qq', ...options, image], {
    cwd: state,
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const temporary = `${tree}.new`
  rmSync(temporary, { recursive: true, force: true })
  mkdirSync(temporary, { recursive: true })
  for (const deb of readdirSync(state).filter((file) => file.endsWith('.deb')))
    execFileSync('dpkg-deb', ['-x', join(state, deb), temporary])
  renameSync(temporary, tree)
  return tree
}
