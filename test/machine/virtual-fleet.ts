import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { stringify } from 'yaml'
import { writeDiskImage } from '../../builder/images/write-disk-image.ts'
import type { FleetRow } from '../../protocol/gossip/fleet-rows.ts'
import { imageSet } from '../fleet/build-images.ts'
import { installLoader, makeLoaderImages } from './boot-files.ts'
import { MachineImages, type Variant } from './machine-images.ts'
import { type Attachment, type LoaderFamily, Machine, type MachineOptions, VIRTUAL_BOARDS } from './virtual-board.ts'
import { VirtualLan } from './virtual-lan.ts'

const run = promisify(execFile)
const PASSPHRASE = 'for a virtual fleet only'
const DISK_BYTES = 2 ** 30
/** A trial boot under emulation, until the agent is up, and until it is proven. */
const TRIAL_BOOT_SECONDS = 75
const DEADLINE_SECONDS = 45

export type VirtualDevice = {
  readonly name: string
  readonly disk: string
  readonly network: Attachment
  readonly address: string
  machine: Machine | undefined
}
export type AgentEvent = {
  readonly event: string
  readonly at: string
  readonly release?: string
  readonly reason?: string
}

/**
 * A fleet of virtual machines of one board: real firmware and loader, disks that the builder made, the agent inside. Everything that
 * it starts it ends.
 */
export class VirtualFleet {
  readonly directory: string
  readonly family: LoaderFamily
  readonly devices = new Map<string, VirtualDevice>()
  readonly #images: MachineImages
  readonly #loader: string
  #lan: VirtualLan | undefined

  constructor(family: LoaderFamily) {
    this.family = family
    this.directory = mkdtempSync(join(tmpdir(), 'flotilla-machines-'))
    const { arch, console } = VIRTUAL_BOARDS[family]
    this.#images = new MachineImages(arch, console)
    this.#loader = join(this.directory, 'loader')
    makeLoaderImages(family, this.#loader)
  }

  /** Runs a command of the workstation. @throws with what it said unless it ends well */
  async flotilla(...args: readonly string[]): Promise<string> {
    const command = this.#operator([process.execPath, imageSet().flotilla, ...args])
    const [program = '', ...rest] = command
    const environment = {
      ...process.env,
      FLOTILLA_REPO: join(this.directory, 'repo'),
      FLOTILLA_PASSPHRASE: PASSPHRASE,
    }
    const { stdout } = await run(program, rest, { env: environment, maxBuffer: 64 * 2 ** 20 })
    return stdout
  }

  #operator(command: readonly string[]): readonly string[] {
    this.#lan ??= new VirtualLan()
    return this.#lan.wrap(command)
  }

  async init(): Promise<void> {
    await this.flotilla('fleet', 'init', '--name', 'demo', '--dev')
  }

  /** Builds and signs a release. @returns its id */
  async release(variant: Variant, tries = 3): Promise<string> {
    const images = this.#images.build(variant)
    const options = ['--board', this.#board, '--images', images, '--as', variant.version]
    const rules = ['--deadline', String(DEADLINE_SECONDS), '--tries', String(tries), '--json']
    return (JSON.parse(await this.flotilla('release', 'create', ...options, ...rules)) as { id: string }).id
  }

  get #board(): string {
    return `virtual-${this.family}`
  }

  /** Enrols a device and makes its disk, as a factory would. */
  async addDevice(name: string, release: string, more: Readonly<Record<string, unknown>> = {}): Promise<VirtualDevice> {
    this.#lan ??= new VirtualLan()
    const { arch, layout } = VIRTUAL_BOARDS[this.family]
    const tree = join(this.directory, name)
    const config = join(this.directory, `${name}.yaml`)
    const settings = { hardware: this.#board, family: this.family, trialBootSeconds: TRIAL_BOOT_SECONDS, ...more }
    writeFileSync(config, stringify(settings))
    const options = ['--name', name, '--config', config, '--for-image', '--arch', arch]
    await this.flotilla('device', 'create', tree, release, ...options)
    const disk = join(this.directory, `${name}.img`)
    const sizes = { bootPartitionBytes: undefined, totalBytes: undefined }
    const efi = this.family === 'systemd-boot'
    writeDiskImage({ layout, efi, device: tree, images: this.#loader, file: disk, ...sizes })
    installLoader(this.family, disk)
    rmSync(tree, { recursive: true })
    truncateSync(disk, DISK_BYTES)
    const device = { name, disk, ...this.#lan.attach(), machine: undefined }
    this.devices.set(name, device)
    return device
  }

  /** Switches a device on, where it is off. */
  start(name: string, options: Partial<MachineOptions> = {}): Machine {
    const device = this.device(name)
    const watchdog = ['-device', 'i6300esb', '-action', 'watchdog=reset']
    const machine = new Machine({
      family: this.family,
      disk: device.disk,
      network: device.network,
      memoryMiB: 512,
      ...options,
      more: [...watchdog, ...(options.more ?? [])],
    })
    device.machine = machine
    return machine
  }

  /** The fleet as a device has heard of it. @throws when it cannot be asked */
  async heardBy(name: string): Promise<readonly FleetRow[]> {
    return JSON.parse(await this.flotilla('fleet', '--via', this.device(name).address, '--json')) as FleetRow[]
  }

  /** Pulls the plug. */
  async cut(name: string): Promise<void> {
    const device = this.device(name)
    await device.machine?.cut()
    device.machine = undefined
  }

  device(name: string): VirtualDevice {
    const device = this.devices.get(name)
    if (device === undefined) throw new Error(`no device ${name}`)
    return device
  }

  /** Waits until a device has told an event, of a release when one is given, since its console began. */
  async untilTold(name: string, event: string, release: string, timeoutMs: number): Promise<void> {
    const machine = this.device(name).machine
    if (machine === undefined) throw new Error(`${name} is off`)
    const isTold = (console: string) =>
      eventsIn(console).some((told) => told.event === event && told.release === release)
    await machine.waitFor(isTold, timeoutMs)
  }

  async close(): Promise<void> {
    for (const { machine } of this.devices.values()) await machine?.cut()
    this.#lan?.close()
    this.#images.close()
    rmSync(this.directory, { recursive: true, force: true })
  }
}

/** What agents told on a console. */
export function eventsIn(console: string): readonly AgentEvent[] {
  return console.split('\n').flatMap((line) => {
    const at = line.indexOf('{"')
    if (at < 0 || !line.includes('"event"')) return []
    try {
      const { fields, ...told } = JSON.parse(line.slice(at)) as AgentEvent & { fields?: Record<string, string> }
      return [{ ...told, ...fields }]
    } catch {
      return [] // the kernel wrote in between
    }
  })
}
