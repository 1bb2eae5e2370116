import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { CACHE, squash } from '../fleet/build-images.ts'

/** Packages of which Debian's archive often holds two versions (main and security, or a point release and an update). */
const MAY_CHANGE = [
  'git',
  'libc6',
  'perl-modules-5.36',
  'systemd',
  'libpython3.11-stdlib',
  'libssl3',
  'openssl',
  'python3.11-minimal',
  'libsystemd-shared',
  'perl-base',
  'sudo',
  'wpasupplicant',
]
const CHANGED = 4
/** Alike in both images. With the changed ones and Node: 40 packages. */
const SAME = [
  'docker.io',
  'containerd',
  'runc',
  'busybox-static',
  'restic',
  'aria2',
  'bash',
  'ca-certificates',
  'coreutils',
  'dbus',
  'dpkg',
  'e2fsprogs',
  'ethtool',
  'findutils',
  'gdb',
  'grep',
  'iproute2',
  'iptables',
  'iw',
  'kmod',
  'libicu72',
  'libstdc++6',
  'locales',
  'nano',
  'nftables',
  'procps',
  'python3-numpy',
  'socat',
  'strace',
  'tar',
  'tcpdump',
  'tmux',
  'tzdata',
  'usbutils',
  'util-linux',
  'vim-runtime',
]

/** Two squashfs images of a Debian root file system. */
export type ImagePair = { readonly from: string; readonly to: string; readonly changed: readonly string[] }

/**
 * Images of 40 Debian packages of which four have another version in the second: real builds of both versions, whatever
 * the archive holds of them today. What was downloaded is kept, so that later runs compare the same.
 * @throws Error when the archive holds two versions of fewer than four
 */
export function changedTenth(log: (line: string) => void): ImagePair {
  const directory = join(CACHE, 'tenth')
  const [same, before, after] = ['same', 'before', 'after'].map((name) => join(directory, name)) as [
    string,
    string,
    string,
  ]
  const pair = { from: join(directory, 'from.squashfs'), to: join(directory, 'to.squashfs') }
  if (!existsSync(pair.to)) {
    rmSync(directory, { recursive: true, force: true })
    const changes = MAY_CHANGE.flatMap((name) => twoVersions(name)).slice(0, CHANGED)
    if (changes.length < CHANGED) throw new Error(`the archive holds two versions of ${changes.length} packages only`)
    log(`download 40 packages, and another version of ${changes.map(({ name }) => name).join(', ')}`)
    download(same, SAME)
    download(
      before,
      changes.map(({ name, older }) => `${name}=${older}`),
    )
    download(
      after,
      changes.map(({ name, newer }) => `${name}=${newer}`),
    )
    build([same, before], pair.from)
    build([same, after], pair.to)
  }
  return { ...pair, changed: readdirSync(after) }
}

/** The newest version that the archive holds, and the oldest of the same package. */
function twoVersions(name: string): { readonly name: string; readonly older: string; readonly newer: string }[] {
  const lines = execFileSync('apt-cache', ['madison', name], { encoding: 'utf8' }).split('\n')
  const versions = lines.flatMap((line) => line.split('|')[1]?.trim() ?? [])
  const isOlder = (a: string, b: string) => {
    try {
      execFileSync('dpkg', ['--compare-versions', a, 'lt', b])
      return true
    } catch {
      return false
    }
  }
  const sorted = [...new Set(versions)].sort((a, b) => (isOlder(a, b) ? -1 : 1))
  const [older, newer] = [sorted[0], sorted.at(-1)]
  return older === undefined || newer === undefined || older === newer ? [] : [{ name, older, newer }]
}

function download(directory: string, packages: readonly string[]): void {
  mkdirSync(directory, { recursive: true })
  execFileSync('apt-get', ['download', '-qq', '-o', 'APT::Sandbox::User=root', ...packages], {
    cwd: directory,
    stdio: ['ignore', 'ignore', 'inherit'],
  })
}

function build(directories: readonly string[], image: string): void {
  const tree = `${image}.tree`
  mkdirSync(join(tree, 'usr/bin'), { recursive: true })
  for (const directory of directories)
    for (const deb of readdirSync(directory)) execFileSync('dpkg-deb', ['-x', join(directory, deb), tree])
  copyFileSync(process.execPath, join(tree, 'usr/bin/node'))
  squash(tree, `${image}.new`)
  renameSync(`${image}.new`, image)
  rmSync(tree, { recursive: true })
}
