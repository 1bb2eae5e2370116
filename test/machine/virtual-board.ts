import { type ChildProcess, spawn } from 'node:child_process'
import { copyFileSync, existsSync } from 'node:fs'
import { type BoardLayout, readBoard } from '../../builder/layers/board.ts'
import { openCatalogue } from '../../builder/layers/open-chain.ts'
import { PLAIN_CPU } from '../boot/virtual-machine.ts'
import { ROOT } from '../setup/gates.ts'

/** The boot families whose loader counts by itself, and which QEMU runs for real. */
export const LOADER_FAMILIES = ['systemd-boot', 'grub', 'uboot'] as const
/** All that QEMU runs: SYSLINUX reads what extlinux and U-Boot read, and the initramfs counts. */
export const MACHINE_FAMILIES = [...LOADER_FAMILIES, 'extlinux'] as const
export type LoaderFamily = (typeof MACHINE_FAMILIES)[number]

/** A board as its layer declares it, as far as a virtual one is concerned. */
export type VirtualBoard = {
  readonly arch: 'x86_64' | 'aarch64'
  readonly layout: BoardLayout
  /** The serial port, as Linux names it. */
  readonly console: string
}

const LAYERS = openCatalogue({ root: ROOT, skiffos: undefined, environment: {} })

/** How a board's layer has its medium laid out. */
function layoutOf(board: string): BoardLayout {
  const layout = readBoard(LAYERS.get(board, 'virtual board'))?.layout
  if (layout === undefined) throw new Error(`${board} has no layout`)
  return layout
}

export const VIRTUAL_BOARDS: Readonly<Record<LoaderFamily, VirtualBoard>> = {
  'systemd-boot': { arch: 'x86_64', layout: layoutOf('virt/qemu'), console: 'ttyS0' },
  grub: { arch: 'x86_64', layout: layoutOf('pcengines/apu2'), console: 'ttyS0' },
  uboot: { arch: 'aarch64', layout: { table: 'dos', raw: [], bootFiles: undefined }, console: 'ttyAMA0' },
  extlinux: {
    arch: 'x86_64',
    layout: {
      table: 'dos',
      raw: [{ file: 'mbr.bin', atBytes: 0, fromBytes: 0, lengthBytes: 440 }],
      bootFiles: 'syslinux',
    },
    console: 'ttyS0',
  },
}

const EFI_CODE = '/usr/share/OVMF/OVMF_CODE_4M.fd'
const EFI_VARIABLES = '/usr/share/OVMF/OVMF_VARS_4M.fd'
const UBOOT = '/usr/lib/u-boot/qemu_arm64/u-boot.bin'

/** A network card: the tap interface that it is, in the network namespace where QEMU runs. */
export type Attachment = { readonly namespace: string; readonly tap: string; readonly mac: string }

export type MachineOptions = {
  readonly family: LoaderFamily
  /** A disk image; the machine writes to it. */
  readonly disk: string
  readonly memoryMiB?: number
  /** Options of the disk's drive, such as `readonly=on`. */
  readonly drive?: readonly string[]
  /** A file that takes down every write and flush of the disk (`readWriteLog`). */
  readonly writeLog?: string
  /** The network that it is on; none without one. */
  readonly network?: Attachment
  readonly more?: readonly string[]
}

/** A virtual machine that runs: it is reset as often as it likes, until it is stopped. */
export class Machine {
  readonly #process: ChildProcess
  #console = ''
  readonly #ended: Promise<number | null>
  #hasEnded = false
  #listeners: (() => void)[] = []

  constructor(options: MachineOptions) {
    const command = commandOf(options)
    const { namespace } = options.network ?? {}
    // `ip netns exec` becomes the program: what is started is what is ended.
    const [program = '', ...args] = namespace === undefined ? command : ['ip', 'netns', 'exec', namespace, ...command]
    this.#process = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    const take = (part: Buffer) => {
      this.#console += part.toString('latin1').replaceAll('\r', '')
      for (const listener of this.#listeners) listener()
    }
    this.#process.stdout?.on('data', take)
    this.#process.stderr?.on('data', take)
    this.#ended = new Promise((resolve, reject) => {
      this.#process.once('error', reject)
      this.#process.once('close', (code) => {
        this.#hasEnded = true
        for (const listener of this.#listeners) listener()
        resolve(code)
      })
    })
    this.#ended.catch(() => {})
  }

  /** All that came over its serial port. */
  get console(): string {
    return this.#console
  }

  /** Waits until the console shows what is wanted. @throws with the end of the console after the time limit */
  async waitFor(isSeen: RegExp | ((console: string) => boolean), timeoutMs: number): Promise<void> {
    const seen = typeof isSeen === 'function' ? isSeen : (console: string) => isSeen.test(console)
    if (seen(this.#console)) return
    await new Promise<void>((resolve, reject) => {
      const done = (finish: () => void) => {
        clearTimeout(timer)
        this.#listeners = this.#listeners.filter((other) => other !== listener)
        finish()
      }
      const fail = (why: string) =>
        done(() => reject(new Error(`${why} before ${String(isSeen)}:\n${this.#console.slice(-3_000)}`)))
      const listener = () => {
        if (seen(this.#console)) done(resolve)
        else if (this.#hasEnded) fail('the machine ended')
      }
      const timer = setTimeout(() => fail(`${timeoutMs} ms passed`), timeoutMs)
      this.#listeners.push(listener)
    })
  }

  /** Ends QEMU in order, so that its log of writes is whole. */
  async end(): Promise<void> {
    this.#process.kill('SIGTERM')
    await this.#ended
  }

  /** Pulls the plug. */
  async cut(): Promise<void> {
    this.#process.kill('SIGKILL')
    await this.#ended
  }
}

function commandOf(options: MachineOptions): readonly string[] {
  const { family, disk, memoryMiB = 256, drive = [], network, more = [] } = options
  const blockDrive =
    options.writeLog === undefined
      ? ['-drive', ['if=none', 'id=disk', 'format=raw', `file=${disk}`, ...drive].join(',')]
      : [
          ...['-blockdev', `driver=file,node-name=medium,filename=${disk}`],
          ...['-blockdev', `driver=file,node-name=log,filename=${options.writeLog}`],
          ...['-blockdev', 'driver=blklogwrites,node-name=disk,file=medium,log=log,log-sector-size=512'],
        ]
  const shared = ['-accel', 'tcg', '-nographic', ...blockDrive, ...(network === undefined ? ['-nic', 'none'] : [])]
  const bus = VIRTUAL_BOARDS[family].arch === 'aarch64' ? 'device' : 'pci'
  if (network !== undefined)
    shared.push(
      ...['-netdev', `tap,id=lan,ifname=${network.tap},script=no,downscript=no`],
      ...['-device', `virtio-net-${bus},netdev=lan,mac=${network.mac}`],
    )
  switch (family) {
    case 'systemd-boot': {
      const variables = `${disk}.efivars`
      if (!existsSync(variables)) copyFileSync(EFI_VARIABLES, variables)
      return [
        'qemu-system-x86_64',
        ...['-M', 'q35', '-cpu', PLAIN_CPU, '-m', String(memoryMiB)],
        ...['-drive', `if=pflash,format=raw,readonly=on,file=${EFI_CODE}`],
        ...['-drive', `if=pflash,format=raw,file=${variables}`],
        ...[...shared, '-device', 'virtio-blk-pci,drive=disk,bootindex=1', ...more],
      ]
    }
    case 'grub':
    case 'extlinux':
      return [
        'qemu-system-x86_64',
        ...['-M', 'pc', '-cpu', PLAIN_CPU, '-m', String(memoryMiB)],
        ...[...shared, '-device', 'virtio-blk-pci,drive=disk,bootindex=1', ...more],
      ]
    case 'uboot':
      return [
        'qemu-system-aarch64',
        ...['-M', 'virt', '-cpu', 'cortex-a57', '-m', String(Math.max(512, memoryMiB)), '-bios', UBOOT],
        ...[...shared, '-device', 'virtio-blk-device,drive=disk', ...more],
      ]
  }
}
