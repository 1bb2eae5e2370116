import { chmod, chown, copyFile, cp, mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { readMounts } from './mounts.ts'
import type { PersistStep } from './plan-persist.ts'
import { runProgram } from './run-program.ts'

/** A file system of a terabyte that was not unmounted; the boot goes on without it after that. */
const CHECK_MS = 15 * 60_000
const FORMAT_MS = 5 * 60_000
const KEY_MS = 2 * 60_000
/** Gigabytes onto a slow card. */
const SWAP_MS = 90 * 60_000

/** Does one step. @throws FlotillaError with the code of what failed */
export async function executeStep(step: PersistStep): Promise<void> {
  try {
    await execute(step)
  } catch (cause) {
    if (cause instanceof FlotillaError) throw cause
    throw new FlotillaError('DISK_FAILED', messageOf(cause), { cause })
  }
}

async function execute(step: PersistStep): Promise<void> {
  switch (step.do) {
    case 'check':
      // Mounted it must not be; then it was checked before.
      if (await isInUse(step.device)) return
      // 1: errors were corrected. From 4 on something is left that needs a decision.
      await runProgram('e2fsck', ['-p', step.device], { okCodes: [0, 1], timeoutMs: CHECK_MS })
      return
    case 'grow-partition':
      await growPartition(step.disk, step.number)
      return
    case 'mount':
      await mkdir(step.at, { recursive: true })
      if (!(await isMounted(step.at))) await runProgram('mount', ['-o', 'noatime', step.device, step.at])
      return
    case 'grow-file-system':
      await runProgram('resize2fs', [step.device], { timeoutMs: FORMAT_MS })
      return
    case 'make-directory':
      await mkdir(step.path, { recursive: true })
      await chmod(step.path, step.mode)
      return
    case 'make-host-key':
      // Whole or not there: half a key would be taken for one.
      await rm(`${step.path}.new`, { force: true })
      await rm(`${step.path}.new.pub`, { force: true })
      await runProgram('ssh-keygen', ['-q', '-t', step.type, '-N', '', '-C', '', '-f', `${step.path}.new`], {
        timeoutMs: KEY_MS,
      })
      await flush(`${step.path}.new`)
      await rename(`${step.path}.new.pub`, `${step.path}.pub`)
      await rename(`${step.path}.new`, step.path)
      return
    case 'copy':
      await mkdir(dirname(step.to), { recursive: true })
      await copyFile(step.from, step.to)
      await chmod(step.to, step.mode)
      if (step.group !== undefined) await giveToGroup(step.to, step.group)
      return
    case 'copy-tree':
      await cp(step.from, step.to, { recursive: true, force: true, verbatimSymlinks: true, preserveTimestamps: true })
      return
    case 'write':
      await writeFile(step.path, step.text, { mode: step.mode })
      return
    case 'set-hostname':
      await writeFile('/proc/sys/kernel/hostname', step.name)
      await writeFile('/etc/hostname', `${step.name}\n`)
      return
    case 'bind':
      await mkdir(step.to, { recursive: true })
      if (!(await isMounted(step.to))) await runProgram('mount', ['--bind', step.from, step.to])
      return
    case 'make-swap':
      await makeSwap(step.path, step.lengthBytes)
      return
    case 'swap-on':
      if (!(await readFile('/proc/swaps', 'latin1')).includes(`${step.path} `)) await runProgram('swapon', [step.path])
      return
  }
}

/** One table, written once: the partition's new end, and the end of the disk for the second table of a GPT. */
async function growPartition(disk: string, number: number): Promise<void> {
  const dump = await runProgram('sfdisk', ['--dump', disk])
  const device = new RegExp(`^(\\S*\\D${number} :.*?), size= *\\d+(.*)$`, 'm')
  if (!device.test(dump))
    throw new FlotillaError('DISK_FAILED', `grow partition ${number} of ${disk}: not in its table`)
  const script = dump.replace(/^last-lba:.*\n/m, '').replace(device, '$1$2')
  // Its own partitions are in use: the table is written all the same, and the kernel told of this partition alone.
  await runProgram('sfdisk', ['--no-reread', '--force', '--quiet', disk], { input: script })
  await runProgram('partx', ['--update', '--nr', String(number), disk])
}

/** Written out, since swap must have no holes, and under its name only when it is whole. */
async function makeSwap(path: string, lengthBytes: number): Promise<void> {
  const fresh = `${path}.new`
  await rm(path, { force: true })
  try {
    const count = `count=${lengthBytes / 2 ** 20}`
    await runProgram('dd', ['if=/dev/zero', `of=${fresh}`, 'bs=1M', count], { timeoutMs: SWAP_MS })
    await chmod(fresh, 0o600)
    await runProgram('mkswap', [fresh])
    await flush(fresh)
    await rename(fresh, path)
  } catch (error) {
    await rm(fresh, { force: true })
    throw error
  }
}

async function giveToGroup(path: string, group: string): Promise<void> {
  const line = (await readFile('/etc/group', 'utf8')).split('\n').find((one) => one.startsWith(`${group}:`))
  const id = Number(line?.split(':')[2])
  if (Number.isSafeInteger(id)) await chown(path, 0, id)
}

/** Whether the device itself is mounted somewhere. */
async function isInUse(device: string): Promise<boolean> {
  return (await readMounts()).some((mount) => mount.device === device)
}

async function isMounted(path: string): Promise<boolean> {
  return (await readMounts()).some(({ at }) => at === path)
}

async function flush(path: string): Promise<void> {
  const file = await open(path, 'r')
  try {
    await file.sync()
  } finally {
    await file.close()
  }
}
