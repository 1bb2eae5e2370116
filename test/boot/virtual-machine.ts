import { spawn } from 'node:child_process'

/** The plainest: where it has SSSE3, OpenSSL uses it, and emulated it takes half as long again to hash and to encrypt. */
export const PLAIN_CPU = 'qemu64'

/** A machine that boots a kernel itself, without a boot loader. */
export type MachineOptions = {
  readonly kernel: string
  readonly initramfs: string
  readonly commandLine: string
  /** Disk images, as virtio disks in this order. */
  readonly disks: readonly string[]
  /** What is written to them stays; else it is lost, and several machines may have the same. */
  readonly keep?: boolean
  readonly memoryMiB?: number
  readonly timeoutMs?: number
}

/** What it printed, and how it ended: it reset or powered off by itself (0), or was ended at the time limit. */
export type MachineRun = { readonly console: string; readonly ended: boolean }

/** Runs a virtual machine until it powers off or resets. KVM hangs where this is developed, so it is emulated. */
export function runMachine(options: MachineOptions): Promise<MachineRun> {
  const { kernel, initramfs, commandLine, disks, keep = false, memoryMiB = 256, timeoutMs = 120_000 } = options
  const drives = disks.flatMap((file, at) => {
    const id = `disk${at}`
    return [
      '-drive',
      `file=${file},format=raw,if=none,snapshot=${keep ? 'off' : 'on'},id=${id}`,
      '-device',
      `virtio-blk-pci,drive=${id}`,
    ]
  })
  const args = [
    ...['-accel', 'tcg', '-cpu', PLAIN_CPU, '-m', String(memoryMiB), '-nographic', '-no-reboot', '-nic', 'none'],
    ...['-kernel', kernel, '-initrd', initramfs],
    ...['-append', `console=ttyS0 quiet panic=1 mitigations=off ${commandLine}`],
    ...drives,
  ]
  return new Promise((resolve, reject) => {
    const machine = spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'pipe', 'pipe'] })
    let console = ''
    let ended = true
    const timer = setTimeout(() => {
      ended = false
      machine.kill('SIGKILL')
    }, timeoutMs)
    const take = (part: Buffer) => void (console += part.toString('latin1'))
    machine.stdout.on('data', take)
    machine.stderr.on('data', take)
    machine.once('error', (error) => {
      clearTimeout(timer)
      reject(error)
    })
    machine.once('close', () => {
      clearTimeout(timer)
      resolve({ console, ended })
    })
  })
}
