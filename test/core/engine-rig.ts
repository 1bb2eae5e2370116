import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import Docker from 'dockerode'

let made = 0

/**
 * A Docker Engine of its own: real `dockerd` and `containerd` from Debian's package, in a network namespace, with its data
 * in a directory that goes with it. Ended by process id.
 */
export class EngineRig {
  readonly directory = mkdtempSync(join(tmpdir(), 'flotilla-engine-'))
  readonly socket = join(this.directory, 'docker.sock')
  readonly docker = new Docker({ socketPath: this.socket })
  readonly namespace = `flotilla-engine-${process.pid}-${(made += 1)}`
  #process: ChildProcess | undefined
  #containerd: ChildProcess | undefined
  #isNamespaceThere = false

  /** @throws when it does not answer in time, with what it printed */
  async start(): Promise<void> {
    if (!this.#isNamespaceThere) {
      execFileSync('ip', ['netns', 'add', this.namespace])
      this.#isNamespaceThere = true
      execFileSync('ip', ['-n', this.namespace, 'link', 'set', 'lo', 'up'])
    }
    const log = openSync(join(this.directory, 'dockerd.log'), 'a')
    // A service of its own, as on a device: it outlives an engine that crashes.
    const containerd = join(this.directory, 'containerd.sock')
    this.#containerd ??= spawn(
      'containerd',
      ['--address', containerd, '--root', join(this.directory, 'containerd'), '--state', join(this.directory, 'state')],
      { stdio: ['ignore', log, log], detached: true },
    )
    const args = [
      ...['--containerd', containerd],
      ...['--host', `unix://${this.socket}`, '--data-root', join(this.directory, 'data')],
      ...['--exec-root', join(this.directory, 'exec'), '--pidfile', join(this.directory, 'pid')],
    ]
    // Not `ip netns exec`: that mounts a new /sys, without the control groups.
    const command = [`--net=/run/netns/${this.namespace}`, '/usr/sbin/dockerd', ...args]
    this.#process = spawn('nsenter', command, { stdio: ['ignore', log, log], detached: true })
    closeSync(log)
    for (const deadline = performance.now() + 60_000; ; await pause(50)) {
      if (
        await this.docker.ping().then(
          () => true,
          () => false,
        )
      )
        return
      if (performance.now() < deadline && this.#process.exitCode === null) continue
      throw new Error(
        `dockerd does not answer:\n${readFileSync(join(this.directory, 'dockerd.log'), 'utf8').slice(-2_000)}`,
      )
    }
  }

  /** As a crash would end it: containers go on, nothing is written down. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL')
    rmSync(this.socket, { force: true })
  }

  async stop(): Promise<void> {
    await this.#end('SIGTERM')
  }

  async close(): Promise<void> {
    if (this.#process === undefined || this.#process.exitCode !== null) await this.start().catch(() => {})
    for (const { Id } of await this.docker.listContainers({ all: true }).catch(() => []))
      await this.docker
        .getContainer(Id)
        .remove({ force: true, v: true })
        .catch(() => {})
    await this.#end('SIGTERM')
    if (this.#containerd?.pid !== undefined) {
      const ended = new Promise((resolve) => this.#containerd?.once('exit', resolve))
      kill(this.#containerd.pid, 'SIGTERM')
      await ended
    }
    if (this.#isNamespaceThere) execFileSync('ip', ['netns', 'delete', this.namespace])
    // What an engine that was killed left mounted.
    for (const [, path = ''] of readFileSync('/proc/self/mounts', 'utf8').matchAll(/^\S+ (\S+) /gm))
      if (path.startsWith(`${this.directory}/`)) execFileSync('umount', ['--lazy', path])
    rmSync(this.directory, { recursive: true, force: true })
  }

  async #end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const child = this.#process
    this.#process = undefined
    if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
    const ended = new Promise((resolve) => child.once('exit', resolve))
    kill(child.pid, signal)
    await ended
  }

  /** Makes an image of Debian's static BusyBox, with links for what it can do. @returns its id */
  async busybox(
    name: string,
    files: Readonly<Record<string, string>> = {},
    changes: readonly string[] = [],
  ): Promise<string> {
    const tree = mkdtempSync(join(this.directory, 'tree-'))
    for (const path of ['bin', 'etc', 'tmp', 'root', 'run', 'var']) mkdirSync(join(tree, path))
    execFileSync('cp', ['/bin/busybox', join(tree, 'bin/busybox')])
    execFileSync('/bin/busybox', [
      'sh',
      '-c',
      `for a in $(/bin/busybox --list); do [ $a = busybox ] || ln -s busybox ${tree}/bin/$a; done`,
    ])
    for (const [path, text] of Object.entries(files))
      execFileSync('sh', ['-c', `mkdir -p "$(dirname "$1")" && cat > "$1" && chmod 755 "$1"`, 'sh', join(tree, path)], {
        input: text,
      })
    return this.importTree(name, tree, changes)
  }

  /** @param changes - lines of a Dockerfile, such as `CMD ["/bin/sleep", "1d"]` */
  async importTree(name: string, tree: string, changes: readonly string[] = []): Promise<string> {
    const tar = spawn('tar', ['-C', tree, '--owner=0', '--group=0', '-c', '.'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const [repo, tag] = name.split(':')
    const stream = await this.docker.importImage(tar.stdout, {
      repo,
      tag,
      changes: [...changes],
    })
    const answer: { status?: string; error?: string }[] = await new Promise((resolve, reject) => {
      this.docker.modem.followProgress(stream, (error: unknown, found: { status?: string }[]) =>
        error === null ? resolve(found) : reject(error),
      )
    })
    return answer.at(-1)?.status ?? ''
  }
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // it ended in the meantime
  }
}
