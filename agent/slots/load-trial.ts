import { join } from 'node:path'
import { parseSlotBoot, kernelArguments } from '../../protocol/boot/slot-files.ts'
import { SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import { runProgram } from '../persist/run-program.ts'
import { type Disk, readSmallFile } from '../store/disk.ts'
import type { BootControl } from './bootloaders/boot-control.ts'

const MAX_LOADER_FILE_BYTES = 4_096
const LOAD_MS = 60_000

/**
 * Lets the next restart go straight into the slot on trial, past firmware and loader (`kexec_file_load(2)`, through the program
 * `kexec`). The try is on the medium before this resolves, as the loader would have it: cut off afterwards, one is gone and none
 * was won. The device tree stays the one that this boot was given.
 * @param boot - the boot area, at `directory` of the file system
 * @returns the slot; undefined when only the loader of this family can take a try, or none is left
 * @throws FlotillaError DISK_FAILED, PROGRAM_FAILED and others when the kernel cannot be loaded: then nothing was taken
 */
export async function loadTrial(
  boot: Disk,
  directory: string,
  control: BootControl,
  slot: string,
): Promise<string | undefined> {
  if (control.takeTry === undefined || !((await control.remaining(slot)) ?? 0)) return undefined
  const path = `${SLOTS_DIRECTORY}/${slot}/loader.env`
  const described = parseSlotBoot(slot, (await readSmallFile(boot, path, MAX_LOADER_FILE_BYTES)) ?? new Uint8Array())
  if (described === undefined) throw new FlotillaError('FORMAT', `load ${slot}: ${path} is not whole`)
  const inSlot = (name: string) => join(directory, SLOTS_DIRECTORY, slot, name)
  const initramfs = described.initramfs === '' ? [] : [`--initrd=${inSlot(described.initramfs)}`]
  const line = `--command-line=${kernelArguments(described, true)}`
  await runProgram('kexec', ['--kexec-file-syscall', '--load', inSlot(described.kernel), ...initramfs, line], {
    timeoutMs: LOAD_MS,
  })
  try {
    return await control.takeTry()
  } catch (error) {
    await runProgram('kexec', ['--kexec-file-syscall', '--unload'], { timeoutMs: LOAD_MS })
    throw error
  }
}
