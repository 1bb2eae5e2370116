import { join } from 'node:path'
import { kernelArguments } from '../../protocol/boot/slot-files.ts'
import { SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
import { runProgram } from '../persist/run-program.ts'
import type { Disk } from '../store/disk.ts'
import type { BootControl } from './bootloaders/boot-control.ts'
import { readSlotBoot } from './bootloaders/slot-boot.ts'

const LOAD_MS = 60_000

/**
 * Lets the next restart go straight into the slot on trial, past firmware and loader (`kexec_file_load(2)`, through the program
 * `kexec`). The try is on the medium before this resolves, as the loader would have it: cut off afterwards, one is gone and none
 * was won. The device tree stays the one that this boot was given.
 * @param boot - the boot area, at `directory` of the file system
 * @returns the slot; undefined when only the loader of this family can take a try, or none is left
 * @throws FlotillaError NOT_FOUND, DISK_FAILED, TIMEOUT when the kernel cannot be loaded: then nothing was taken
 */
export async function loadTrial(
  boot: Disk,
  directory: string,
  control: BootControl,
  slot: string,
): Promise<string | undefined> {
  if (control.takeTry === undefined || !((await control.remaining(slot)) ?? 0)) return undefined
  const described = await readSlotBoot(boot, slot)
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
