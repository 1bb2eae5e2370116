// The entry of `npm start`, `npm test`, `npm run check|bench|bundle|fuzz`: plain JavaScript for whatever Node is there,
// since it fetches the right one. Does all set-up, says what it does, then hands over.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '../..')
const NODE_22 = '22.23.3'
/** Virtual machines: firmware and loaders, the programs that read what they read, and what their disks are made with. */
const MACHINES = {
  'qemu-system-x86_64': 'qemu-system-x86',
  'qemu-system-aarch64': 'qemu-system-arm',
  '/usr/share/OVMF/OVMF_CODE_4M.fd': 'ovmf',
  '/usr/lib/u-boot/qemu_arm64/u-boot.bin': 'u-boot-qemu',
  '/usr/lib/grub/i386-pc/boot.img': 'grub-pc-bin',
  'grub-mkimage': 'grub-common',
  '/usr/lib/systemd/boot/efi/systemd-bootx64.efi': 'systemd-boot-efi',
  bootctl: 'systemd-boot',
  syslinux: 'syslinux',
  '/usr/lib/syslinux/mbr/mbr.bin': 'syslinux-common',
  mkimage: 'u-boot-tools',
  fw_printenv: 'libubootenv-tool',
  'aarch64-linux-gnu-gcc': 'gcc-aarch64-linux-gnu',
  '/usr/aarch64-linux-gnu/include/stdlib.h': 'libc6-dev-arm64-cross',
  sfdisk: 'fdisk',
  'mkfs.vfat': 'dosfstools',
  mcopy: 'mtools',
  debugfs: 'e2fsprogs',
  depmod: 'kmod',
  cpio: 'cpio',
  gcc: 'gcc',
  '/usr/include/stdlib.h': 'libc6-dev',
}
/** Debian packages by the program that shows that they are there. */
const PACKAGES = {
  start: { mksquashfs: 'squashfs-tools', ip: 'iproute2', tc: 'iproute2' },
  test: {
    mksquashfs: 'squashfs-tools',
    ip: 'iproute2',
    tc: 'iproute2',
    'avahi-browse': 'avahi-utils',
    'avahi-daemon': 'avahi-daemon',
    'dbus-daemon': 'dbus',
    strace: 'strace',
    nft: 'nftables',
    'kconfig-conf': 'kconfig-frontends-nox',
    ...JSON.parse(readFileSync(join(root, 'builder/buildroot/host-programs.json'), 'utf8')),
    ping: 'iputils-ping',
    // Containers: the engine, what is in their images, and who logs into them.
    dockerd: 'docker.io',
    containerd: 'containerd',
    '/bin/busybox': 'busybox-static',
    sshd: 'openssh-server',
    sftp: 'openssh-client',
    git: 'git',
    'docker-registry': 'docker-registry',
    htpasswd: 'apache2-utils',
    // Backups.
    restic: 'restic',
    getfattr: 'attr',
    ...MACHINES,
  },
  'test:kernels': {
    '/usr/src/linux-source-6.12.tar.xz': 'linux-source-6.12',
    'aarch64-linux-gnu-gcc': 'gcc-aarch64-linux-gnu',
    'arm-linux-gnueabihf-gcc': 'gcc-arm-linux-gnueabihf',
    gcc: 'gcc',
    make: 'make',
    flex: 'flex',
    bison: 'bison',
    bc: 'bc',
    xz: 'xz-utils',
    '/usr/include/openssl/ssl.h': 'libssl-dev',
    '/usr/include/libelf.h': 'libelf-dev',
  },
  'test:uboots': {
    'aarch64-linux-gnu-gcc': 'gcc-aarch64-linux-gnu',
    'arm-linux-gnueabihf-gcc': 'gcc-arm-linux-gnueabihf',
    gcc: 'gcc',
    make: 'make',
    flex: 'flex',
    bison: 'bison',
    bc: 'bc',
    swig: 'swig',
    dtc: 'device-tree-compiler',
    'python3-config': 'python3-dev',
    '/usr/include/openssl/ssl.h': 'libssl-dev',
    '/usr/include/gnutls/gnutls.h': 'libgnutls28-dev',
    '/usr/include/uuid/uuid.h': 'uuid-dev',
    '/usr/lib/python3/dist-packages/setuptools/__init__.py': 'python3-setuptools',
    '/usr/lib/python3/dist-packages/elftools/__init__.py': 'python3-pyelftools',
  },
  bench: {
    ...MACHINES,
    mksquashfs: 'squashfs-tools',
    ip: 'iproute2',
    tc: 'iproute2',
    aria2c: 'aria2',
    restic: 'restic',
    borg: 'borgbackup',
    containerd: 'containerd',
    rsync: 'rsync',
    casync: 'casync',
    mktorrent: 'mktorrent',
    // A module has no program; the shell takes any path that is there.
    '/usr/lib/python3/dist-packages/libtorrent.egg-info/PKG-INFO': 'python3-libtorrent',
    'transmission-cli': 'transmission-cli',
    syncthing: 'syncthing',
    zsync: 'zsync',
    xdelta3: 'xdelta3',
    zstd: 'zstd',
    sshd: 'openssh-server',
    dockerd: 'docker.io',
    docker: 'docker.io',
    '/bin/busybox': 'busybox-static',
    ping: 'iputils-ping',
  },
}
for (const same of ['test:machine', 'start:machines', 'start:containers', 'start:backups'])
  PACKAGES[same] = PACKAGES.test

const [task = 'start', ...args] = process.argv.slice(2)
process.chdir(root)
installModules()
const node = findNode()
const environment = { ...process.env, PATH: `${dirname(node)}:${process.env.PATH}:/usr/sbin:/sbin` }
if (task in PACKAGES) installPackages(PACKAGES[task])
const entry = {
  start: ['test/fleet/start.ts'],
  'start:machines': ['test/machine/start.ts'],
  'start:containers': ['test/login/start.ts'],
  'start:backups': ['test/backup/start.ts'],
  test: ['test/setup/test.ts'],
  check: ['test/setup/check.ts'],
  bench: ['test/bench/bench.ts'],
  bundle: ['test/setup/bundle.ts'],
  fuzz: ['test/fuzz/fuzz.ts'],
  'test:buildroot': ['test/buildroot/resolve-boards.ts'],
  'test:machine': ['test/setup/test.ts', '--whole'],
  'test:kernels': ['test/buildroot/resolve-kernels.ts'],
  'test:uboots': ['test/buildroot/resolve-uboots.ts'],
  'test:skiffos': ['test/buildroot/compare-skiffos.ts'],
}[task]
if (entry === undefined) {
  console.error(`run: no such task: ${task}`)
  process.exit(2)
}
if (task === 'test') environment.FLOTILLA_NODE_22 = installNode22()
const done = spawnSync(node, [...entry, ...args], { stdio: 'inherit', env: environment })
process.exit(done.status ?? 1)

function installModules() {
  const installed = 'node_modules/.package-lock.json'
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync('package-lock.json').mtimeMs) return
  console.error('set-up: npm ci (libraries and Node 26 from the npm registry)')
  run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'])
}

function findNode() {
  const path = join(root, `node_modules/node-linux-${process.arch}/bin/node`)
  if (existsSync(path)) return path
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major > 22 || (major === 22 && minor >= 18)) return process.execPath
  console.error(
    `set-up: Node ${process.versions.node} is too old and node-linux-${process.arch} was not installed; install Node 22.18 or newer`,
  )
  process.exit(1)
}

// Boards with 32 bits get Node 22: the same tests run on it. Kept apart, since both packages install `node`.
function installNode22() {
  const prefix = join(root, '.cache/node22')
  const path = join(prefix, `node_modules/node-linux-${process.arch}/bin/node`)
  if (existsSync(path)) return path
  console.error(`set-up: Node ${NODE_22} from the npm registry`)
  mkdirSync(prefix, { recursive: true })
  run('npm', [
    'install',
    '--prefix',
    prefix,
    '--no-save',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--loglevel=error',
    `node-linux-${process.arch}@${NODE_22}`,
  ])
  return path
}

function installPackages(programs) {
  const missing = [
    ...new Set(
      Object.entries(programs)
        .filter(([program]) => !has(program))
        .map(([, name]) => name),
    ),
  ]
  if (missing.length === 0) return
  if (process.getuid() !== 0) {
    console.error(
      `set-up: missing Debian packages: ${missing.join(' ')}; as root: apt-get install ${missing.join(' ')}`,
    )
    return
  }
  console.error(`set-up: apt-get install ${missing.join(' ')}`)
  const options = { stdio: ['ignore', 'ignore', 'inherit'], env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } }
  spawnSync('apt-get', ['update', '-qq'], options)
  const done = spawnSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...missing], options)
  if (done.status !== 0) {
    console.error(`set-up: apt-get could not install ${missing.join(' ')}; what needs them will fail`)
  }
}

function has(program) {
  return spawnSync('sh', ['-c', `PATH="$PATH:/usr/sbin:/sbin" command -v ${program}`], { stdio: 'ignore' }).status === 0
}

function run(command, list) {
  try {
    execFileSync(command, list, { stdio: ['ignore', 'ignore', 'inherit'] })
  } catch (error) {
    console.error(`set-up: ${command} ${list[0]} failed: ${error.message}; is the npm registry in reach?`)
    process.exit(1)
  }
}
