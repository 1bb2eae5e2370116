import { spawn } from 'node:child_process'
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { NodeDisk } from '../store/node-disk.ts'
import { SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
import { BINARY_FORMAT } from '../../protocol/boot/boot-record.ts'
import { loadSlot } from './bootloaders/record-boot.ts'

/**
 * The loader program of the `directory` boot family: plays firmware, bootloader and power button of a simulated
 * device or container. Chooses a slot, counts the try on the medium, starts the slot's `init` with an empty /run,
 * and begins anew when init ends. `directory-loader DEVICE` where DEVICE holds `boot/` and `persist/`.
 * Ends itself only on SIGTERM (power off).
 */
const device = process.argv[2]
if (device === undefined) {
  process.stderr.write('usage: directory-loader DEVICE_DIRECTORY\n')
  process.exit(2)
}
let child: ReturnType<typeof spawn> | undefined
let off = false
for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.on(signal, () => {
    off = true
    if (child === undefined) process.exit(0)
    child.kill('SIGTERM')
  })
}

while (!off) {
  const disk = new NodeDisk(join(device, 'boot'))
  try {
    const { slot, why } = await loadSlot(disk, BINARY_FORMAT)
    process.stderr.write(`loader: starting ${slot} (${why})\n`)
    await boot(device, slot)
  } catch (error) {
    process.stderr.write(`loader: ${messageOf(error)}\n`)
    if (error instanceof FlotillaError && error.code === 'NOT_FOUND') process.exit(1)
  } finally {
    await disk.close()
  }
  // Firmware takes a moment; also keeps a slot that ends at once from spinning.
  if (!off) await new Promise((resolve) => setTimeout(resolve, 300))
}
process.exit(0)

function boot(root: string, slot: string): Promise<void> {
  const run = join(root, 'run')
  rmSync(run, { recursive: true, force: true })
  mkdirSync(run, { recursive: true })
  return new Promise((resolve) => {
    child = spawn('/bin/sh', [join(root, 'boot', SLOTS_DIRECTORY, slot, 'init')], {
      cwd: root,
      stdio: ['ignore', 'inherit', 'inherit'],
      env: { ...process.env, FLOTILLA_SLOT: slot, FLOTILLA_DEVICE: root },
    })
    const ended = () => {
      child = undefined
      resolve()
    }
    child.on('error', ended)
    child.on('exit', ended)
  })
}
