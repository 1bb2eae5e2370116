import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { chmodSync, copyFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { stringify } from 'yaml'
import { CACHE } from '../fleet/build-images.ts'
import { freePort } from '../fleet/network.ts'
import { EngineRig } from '../core/engine-rig.ts'
import { debianTree } from '../machine/debian-trees.ts'

/** What a person has in a container that they log into, from Debian. */
const PACKAGES = [
  ...[
    'base-files',
    'bash',
    'coreutils',
    'dash',
    'grep',
    'sed',
    'hostname',
    'login',
    'passwd',
    'ncurses-base',
    'ncurses-bin',
  ],
  ...['openssh-client', 'openssh-sftp-server', 'rsync', 'git'],
  ...['libc6', 'libtinfo6', 'libselinux1', 'libpcre2-8-0', 'libgmp10', 'libacl1', 'libattr1', 'libssl3', 'libedit2'],
  ...['libbsd0', 'libmd0', 'libfido2-1', 'libcbor0.8', 'libgssapi-krb5-2', 'libkrb5-3', 'libk5crypto3', 'libcom-err2'],
  ...[
    'libkrb5support0',
    'libkeyutils1',
    'zlib1g',
    'libpopt0',
    'liblz4-1',
    'libzstd1',
    'libxxhash0',
    'libudev1',
    'libcap2',
  ],
  ...[
    'libaudit1',
    'libcap-ng0',
    'libsemanage2',
    'libsepol2',
    'libbz2-1.0',
    'libpam0g',
    'libcrypt1',
    'libgcc-s1',
    'tar',
  ],
]

export type Ended = { readonly code: number; readonly stdout: Buffer; readonly stderr: string }

/** A device with a real Docker Engine and a real sshd, and a client's keys. */
export class LoginRig {
  readonly engine = new EngineRig()
  readonly directory = mkdtempSync(join(this.engine.directory, 'login-'))
  readonly key = join(this.directory, 'key')
  port = 0
  #device: ChildProcess | undefined
  #log = ''

  async start(): Promise<void> {
    // Homes, sockets and the login shell are for accounts too.
    for (const path of [this.engine.directory, this.directory]) chmodSync(path, 0o711)
    await this.engine.start()
    await this.importDebian('debian:1')
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', this.key])
    this.port = await freePort()
  }

  get publicKey(): string {
    return readFileSync(`${this.key}.pub`, 'utf8').trim()
  }

  async importDebian(name: string): Promise<void> {
    const tree = debianTree('x86_64', 'login-image', () => PACKAGES)
    const merged = join(this.directory, 'image')
    cpSync(tree, merged, { recursive: true, verbatimSymlinks: true })
    writeFileSync(join(merged, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/bash\n')
    writeFileSync(join(merged, 'etc/group'), 'root:x:0:\n')
    writeFileSync(join(merged, 'etc/shadow'), 'root:*:19000:0:99999:7:::\n')
    for (const path of ['usr/share/doc', 'usr/share/man', 'usr/share/locale'])
      rmSync(join(merged, path), { recursive: true, force: true })
    await this.engine.importTree(name, merged)
  }

  /** The device's own file. */
  get file(): string {
    return join(this.directory, 'skiff/core/skiff-core.yaml')
  }

  write(core: unknown): void {
    mkdirSync(dirname(this.file), { recursive: true })
    writeFileSync(this.file, stringify(core))
  }

  /** Starts accounts, containers and sshd, in a mount namespace with an `/etc` of its own. */
  async boot(): Promise<void> {
    const program = join(this.directory, 'flotilla-login.mjs')
    copyFileSync(join(CACHE, 'programs/flotilla-login.mjs'), program)
    const upper = join(this.directory, 'upper')
    mkdirSync(upper)
    const script = `mount -t tmpfs tmpfs "$1" && mkdir "$1/u" "$1/w" && mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/u,workdir=$1/w" /etc &&
shift && exec "$@"`
    const args = [process.execPath, join(import.meta.dirname, 'login-device.ts'), this.directory, this.engine.socket]
    const device = spawn(
      'unshare',
      ['--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', upper, ...args, String(this.port), program],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    )
    this.#device = device
    device.stderr.on('data', (part: Buffer) => {
      this.#log += part.toString()
    })
    await new Promise<void>((resolve, reject) => {
      device.stdout.once('data', () => resolve())
      device.once('exit', () => reject(new Error(`the device ended:\n${this.#log}`)))
    })
  }

  get log(): string {
    return this.#log
  }

  /** A file as the device sees it. */
  read(path: string): string {
    return execFileSync('nsenter', ['-t', String(this.#device?.pid), '-m', 'cat', path], { encoding: 'utf8' })
  }

  get options(): readonly string[] {
    return [
      ...['-F', 'none', '-o', 'BatchMode=yes', '-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null'],
      ...['-o', 'LogLevel=ERROR', '-o', 'ConnectTimeout=20', '-i', this.key],
    ]
  }

  ssh(account: string, args: readonly string[], options: RunOptions = {}): Promise<Ended> {
    return this.run('ssh', [...this.options, '-p', String(this.port), `${account}@127.0.0.1`, ...args], options)
  }

  run(command: string, args: readonly string[], { input, env, first = [], onStderr }: RunOptions = {}): Promise<Ended> {
    return new Promise((resolve, reject) => {
      const child = spawn(command, [...first, ...args], { env: { ...process.env, ...env }, timeout: 60_000 })
      const out: Buffer[] = []
      let stderr = ''
      child.stdout.on('data', (part: Buffer) => out.push(part))
      child.stderr.on('data', (part: Buffer) => {
        stderr += part.toString()
        onStderr?.()
      })
      child.stdin.on('error', () => {})
      child.on('error', reject)
      child.on('close', (code) => resolve({ code: code ?? -1, stdout: Buffer.concat(out), stderr }))
      child.stdin.end(input)
    })
  }

  async close(): Promise<void> {
    const device = this.#device
    if (device?.pid !== undefined && device.exitCode === null) {
      const ended = new Promise((resolve) => device.once('exit', resolve))
      device.kill('SIGTERM')
      await ended
    }
    await this.engine.close()
  }
}

type RunOptions = {
  readonly input?: Uint8Array | string
  readonly env?: Readonly<Record<string, string>>
  /** Options of the program that come before all others. */
  readonly first?: readonly string[]
  /** It said something. */
  readonly onStderr?: () => void
}
