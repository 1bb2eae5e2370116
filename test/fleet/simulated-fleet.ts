import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { stringify } from 'yaml'
import { askAgent } from '../../agent/control/local-api.ts'
import type { FleetRow } from '../../protocol/gossip/fleet-rows.ts'
import type { ImageSet } from './build-images.ts'
import type { Host, HostOptions, Network } from './network.ts'

const run = promisify(execFile)
/** Opens the keys of every simulated fleet. */
export const PASSPHRASE = 'for a simulated fleet only'

export type DeviceStatus = {
  readonly state: string
  readonly slot: string
  readonly goodSlot: string
  readonly pid: number
  readonly running: { readonly version: string; readonly id: string } | null
  readonly next: { readonly version: string; readonly percent: number } | null
  readonly failed: readonly { readonly version: string; readonly reason: string }[]
  readonly halted: readonly { readonly id: string; readonly reason: string }[]
  readonly waitingFor: string
  readonly limits: readonly string[]
  readonly peers: number
  readonly fetchedBytes: number
  readonly servedBytes: number
  readonly memoryBytes: number
  readonly trust: { readonly root: number; readonly timestamp: number }
}
export type SimulatedDevice = {
  readonly name: string
  readonly board: string
  readonly directory: string
  readonly host: Host
  process: ChildProcess | undefined
}
export type CommandResult = { readonly code: number; readonly stdout: string; readonly stderr: string }

/**
 * A fleet on this machine: a real repository, real devices that boot from directories through the loader program,
 * on a network of namespaces (or loopback). Everything it starts it ends, by process id.
 */
export class SimulatedFleet {
  readonly directory: string
  readonly repository: string
  readonly devices = new Map<string, SimulatedDevice>()
  readonly #network: Network
  readonly #images: ImageSet
  readonly #configs = new Map<string, Readonly<Record<string, unknown>>>()
  readonly #children = new Set<ChildProcess>()
  readonly #node: string
  #operator: Host | undefined

  /** @param node - the Node that devices and commands run on */
  constructor(network: Network, images: ImageSet, node = process.execPath) {
    this.directory = mkdtempSync(join(tmpdir(), 'flotilla-'))
    this.repository = join(this.directory, 'repo')
    this.#network = network
    this.#images = images
    this.#node = node
  }

  get network(): Network {
    return this.#network
  }

  /** Runs a command of the workstation, as a person would type it after `flotilla`. Throws unless it exits with `code`. */
  async flotilla(args: readonly string[], code = 0): Promise<CommandResult> {
    const result = await this.tryFlotilla(args)
    if (result.code !== code)
      throw new Error(`flotilla ${args.join(' ')}: exit ${result.code}\n${result.stderr}${result.stdout}`)
    return result
  }

  async tryFlotilla(args: readonly string[]): Promise<CommandResult> {
    const [command = '', ...rest] = await this.#workstation(args)
    try {
      const { stdout, stderr } = await run(command, rest, { env: this.environment(), maxBuffer: 64 * 2 ** 20 })
      return { code: 0, stdout, stderr }
    } catch (error) {
      const failed = error as { code?: number; stdout?: string; stderr?: string }
      return { code: failed.code ?? -1, stdout: failed.stdout ?? '', stderr: failed.stderr ?? String(error) }
    }
  }

  /** Starts any program on a host of its own and leaves it running. */
  async startProgram(hostName: string, command: readonly string[]): Promise<ChildProcess> {
    await this.#network.addHost(hostName)
    return this.startProgramOn(hostName, command)
  }

  /** Starts any program on a host that is there. */
  startProgramOn(hostName: string, command: readonly string[]): ChildProcess {
    return this.#spawnLogged(this.#network.wrapFor(hostName, command), hostName)
  }

  /** Starts a command of the workstation and leaves it running. @param output - where it prints: its log is `operator` */
  async startFlotilla(args: readonly string[], output: 'inherit' | 'log' = 'log'): Promise<ChildProcess> {
    const command = await this.#workstation(args)
    if (output === 'log') return this.#spawnLogged(command, 'operator')
    return this.#spawn(command, 'inherit')
  }

  #spawnLogged(command: readonly string[], name: string): ChildProcess {
    const log = openSync(join(this.directory, `${name}.log`), 'a')
    const child = this.#spawn(command, log)
    closeSync(log)
    return child
  }

  #spawn([program = '', ...rest]: readonly string[], output: 'inherit' | number): ChildProcess {
    return this.#track(
      spawn(program, rest, { env: this.environment(), stdio: ['ignore', output, output], detached: true }),
    )
  }

  async #workstation(args: readonly string[]): Promise<readonly string[]> {
    this.#operator ??= await this.#network.addHost('operator')
    return this.#operator.wrap([this.#node, this.#images.flotilla, ...args])
  }

  environment(): NodeJS.ProcessEnv {
    return {
      ...process.env,
      FLOTILLA_REPO: this.repository,
      FLOTILLA_PASSPHRASE: PASSPHRASE,
      FLOTILLA_NODE: this.#node,
    }
  }

  async init(): Promise<void> {
    await this.flotilla(['fleet', 'init', '--name', 'demo', '--dev'])
  }

  /** Publishes a release. */
  async release(board: string, version: string, images: string, options: readonly string[] = []): Promise<string> {
    const { stdout } = await this.flotilla([
      'release',
      'create',
      '--board',
      board,
      '--images',
      images,
      '--as',
      version,
      '--deadline',
      '30',
      '--json',
      ...options,
    ])
    return (JSON.parse(stdout) as { id: string }).id
  }

  /** Lays out a device with a release proven on it; `start` switches it on. */
  async addDevice(
    name: string,
    board: string,
    release: string,
    settings: Readonly<Record<string, unknown>> = {},
    hostOptions: HostOptions = {},
  ): Promise<SimulatedDevice> {
    const host = await this.#network.addHost(name, hostOptions)
    const directory = join(this.directory, name)
    const others = [...this.devices.values()].map((device) => `/ip4/${device.host.address}/tcp/${device.host.port}`)
    const config = {
      hardware: board,
      boot: `${directory}/boot`,
      persist: `${directory}/persist`,
      socket: `${directory}/run/agent.sock`,
      holdFile: `${directory}/hold`,
      healthDirectory: `${directory}/run/rootfs/etc/flotilla/health`,
      checkTimeoutSeconds: 5,
      engineSocket: `${directory}/no-engine.sock`,
      skiff: `${directory}/skiff`,
      port: host.port,
      listen: host.listen,
      discovery: this.#network.kind === 'namespaces',
      peers: this.#network.kind === 'loopback' ? others : [],
      ...settings,
    }
    const file = join(this.directory, `${name}.yaml`)
    this.#configs.set(name, config)
    writeFileSync(file, stringify(config))
    await this.flotilla(['device', 'create', directory, release, '--name', name, '--config', file])
    const device: SimulatedDevice = { name, board, directory, host, process: undefined }
    this.devices.set(name, device)
    return device
  }

  /** Changes settings of a device that is switched off. */
  configure(name: string, settings: Readonly<Record<string, unknown>>): void {
    const config = { ...this.#configs.get(name), ...settings }
    writeFileSync(join(this.device(name).directory, 'agent.yaml'), stringify(config))
  }

  /** Switches a device on: its loader chooses a slot and boots it. */
  start(name: string): void {
    const device = this.device(name)
    device.process = this.#spawnLogged(device.host.wrap([this.#node, this.#images.loader, device.directory]), name)
  }

  /** Switches devices on and waits until each is connected to all the others. */
  async startAll(names: readonly string[] = [...this.devices.keys()], timeoutMs = 120_000): Promise<void> {
    for (const name of names) this.start(name)
    for (const name of names) await this.until(name, 'meshed', (status) => status.peers === names.length - 1, timeoutMs)
  }

  /** Pulls the plug: everything of the device dies at once. */
  async powerOff(name: string): Promise<void> {
    const device = this.device(name)
    await this.#kill(device.process)
    device.process = undefined
  }

  /** Kills only the agent; the loader starts the slot again. False when none runs at the moment. */
  async killAgent(name: string): Promise<boolean> {
    const status = await this.status(name).catch(() => undefined)
    if (status === undefined) return false
    try {
      process.kill(status.pid, 'SIGKILL')
      return true
    } catch {
      return false
    }
  }

  device(name: string): SimulatedDevice {
    const device = this.devices.get(name)
    if (device === undefined) throw new Error(`no device ${name}`)
    return device
  }

  async ask(name: string, path: string, method: 'GET' | 'POST' = 'GET', body?: unknown): Promise<unknown> {
    return askAgent(join(this.device(name).directory, 'run/agent.sock'), method, path, body)
  }

  async status(name: string): Promise<DeviceStatus> {
    return (await this.ask(name, '/status')) as DeviceStatus
  }

  async events(
    name: string,
  ): Promise<readonly { seq: number; at: string; event: string; fields: Readonly<Record<string, unknown>> }[]> {
    return (await this.ask(name, '/events')) as {
      seq: number
      at: string
      event: string
      fields: Record<string, unknown>
    }[]
  }

  async fleetSeenFrom(name: string): Promise<readonly FleetRow[]> {
    return (await this.ask(name, '/fleet')) as FleetRow[]
  }

  /** Waits until `check` holds for the device's status. */
  async until(
    name: string,
    what: string,
    check: (status: DeviceStatus) => boolean,
    timeoutMs = 120_000,
  ): Promise<DeviceStatus> {
    const deadline = performance.now() + timeoutMs
    let last: DeviceStatus | undefined
    while (performance.now() < deadline) {
      last = await this.status(name).catch(() => undefined)
      if (last !== undefined && check(last)) return last
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    throw new Error(
      `${name}: not ${what} within ${timeoutMs / 1000} s; last ${JSON.stringify(last)}\n${this.logTail(name)}\noperator: ${this.logTail('operator')}`,
    )
  }

  async untilRunning(name: string, version: string, timeoutMs = 120_000): Promise<DeviceStatus> {
    return this.until(
      name,
      `running ${version}, proven`,
      (status) => status.running?.version === version && status.state === 'proven',
      timeoutMs,
    )
  }

  /** Waits until one device has heard of another what `check` wants. */
  async untilHeard(
    from: string,
    about: string,
    check: (row: FleetRow) => boolean,
    timeoutMs = 60_000,
  ): Promise<FleetRow> {
    const deadline = performance.now() + timeoutMs
    let last: FleetRow | undefined
    while (performance.now() < deadline) {
      last = (await this.fleetSeenFrom(from).catch(() => [])).find((row) => row.name === about)
      if (last !== undefined && check(last)) return last
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    throw new Error(`${from} has not heard that of ${about} within ${timeoutMs / 1000} s; last ${JSON.stringify(last)}`)
  }

  logTail(name: string): string {
    const file = join(this.directory, `${name}.log`)
    return existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(-40).join('\n') : ''
  }

  /** Ends a command that `startFlotilla` left running. */
  async end(child: ChildProcess): Promise<void> {
    await this.#kill(child)
  }

  async close(): Promise<void> {
    for (const child of [...this.#children]) await this.#kill(child)
    this.#network.close()
    if (process.env['FLOTILLA_KEEP'] === undefined) rmSync(this.directory, { recursive: true, force: true })
  }

  #track(child: ChildProcess): ChildProcess {
    this.#children.add(child)
    child.once('exit', () => this.#children.delete(child))
    return child
  }

  async #kill(child: ChildProcess | undefined): Promise<void> {
    if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
    const ended = new Promise((resolve) => child.once('exit', resolve))
    try {
      process.kill(-child.pid, 'SIGKILL') // its whole group: loader, init, agent
    } catch {
      child.kill('SIGKILL')
    }
    await ended
  }
}
