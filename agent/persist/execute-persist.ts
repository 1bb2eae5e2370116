import { chmod, copyFile, cp, mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import type { PersistStep } from './plan-persist.ts'
import { runProgram } from './run-program.ts'

/** A file system of a terabyte that was not unmounted; the boot goes on without it after that. */
const CHECK_MS = 15 * 60_000
const FORMAT_MS = 5 * 60_000

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
      // 1: errors were corrected. From 4 on something is left that needs a decision.
      await runProgram('e2fsck', ['-p', step.device], { okCodes: [0, 1], timeoutMs: CHECK_MS })
      return
    case 'grow-partition':
      if (step.table === 'gpt') await runProgram('sfdisk', ['--relocate', 'gpt-bak-std', step.disk])
      // Its own partitions are in use: the table is written all the same, and the kernel told of this partition alone.
      await runProgram('sfdisk', ['--no-reread', '--force', '--quiet', '-N', String(step.number), step.disk], {
        input: ', +\n',
      })
      await runProgram('partx', ['--update', '--nr', String(step.number), step.disk])
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
        timeoutMs: FORMAT_MS,
      })
      await flush(`${step.path}.new`)
      await rename(`${step.path}.new.pub`, `${step.path}.pub`)
      await rename(`${step.path}.new`, step.path)
      return
    case 'copy':
      await mkdir(dirname(step.to), { recursive: true })
      await copyFile(step.from, step.to)
      if (step.mode !== undefined) await chmod(step.to, step.mode)
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
      await rm(step.path, { force: true })
      // Written out: swap must have no holes.
      await runProgram('dd', ['if=/dev/zero', `of=${step.path}`, 'bs=1M', `count=${step.lengthBytes / 2 ** 20}`], {
        timeoutMs: FORMAT_MS,
      })
      await chmod(step.path, 0o600)
      await runProgram('mkswap', [step.path])
      return
    case 'swap-on':
      if (!(await readFile('/proc/swaps', 'latin1')).includes(`${step.path} `)) await runProgram('swapon', [step.path])
      return
  }
}

async function isMounted(path: string): Promise<boolean> {
  const mounts = await readFile('/proc/self/mounts', 'utf8')
  return mounts.split('\n').some((line) => line.split(' ')[1] === path)
}

async function flush(path: string): Promise<void> {
  const file = await open(path, 'r')
  try {
    await file.sync()
  } finally {
    await file.close()
  }
}
