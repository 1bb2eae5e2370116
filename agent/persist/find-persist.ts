import { readdir, readFile, realpath } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { runProgram } from './run-program.ts'
import type { PersistDevice } from './plan-persist.ts'

const SECTOR = 512
const LOOK_AGAIN_MS = 250

/**
 * Waits for the partition whose file system has the label `persist`.
 * @throws FlotillaError TIMEOUT when there is none within the time
 */
export async function findPersist(label: string, timeoutMs: number): Promise<PersistDevice> {
  const deadlineMs = performance.now() + timeoutMs
  for (;;) {
    const device = await runProgram('blkid', ['-t', `LABEL=${label}`, '-o', 'device'], { okCodes: [0, 2] })
    const [first = '', ...others] = device.split('\n').filter(Boolean)
    if (others.length > 0)
      throw new FlotillaError(
        'BAD_INPUT',
        `find persist: ${first} and ${others.join(', ')} are both labelled ${label}; take one out, or give it another label`,
      )
    if (first !== '') return readPersistDevice(first)
    if (performance.now() > deadlineMs)
      throw new FlotillaError(
        'TIMEOUT',
        `find persist: no file system is labelled ${label} after ${timeoutMs / 1_000} s`,
      )
    await pause(LOOK_AGAIN_MS)
  }
}

/** What the kernel says of a partition and its disk. @throws FlotillaError DISK_FAILED when it is no partition */
async function readPersistDevice(device: string): Promise<PersistDevice> {
  try {
    const path = await realpath(`/sys/class/block/${basename(await realpath(device))}`)
    const disk = dirname(path)
    const number = async (file: string) => Number((await readFile(file, 'latin1')).trim())
    const endOf = async (partition: string) =>
      ((await number(`${partition}/start`)) + (await number(`${partition}/size`))) * SECTOR
    const partitions = (await readdir(disk)).filter((name) => name.startsWith(basename(disk)))
    const ends = await Promise.all(partitions.map((name) => endOf(`${disk}/${name}`)))
    const endBytes = await endOf(path)
    const diskDevice = `/dev/${basename(disk)}`
    const table = await runProgram('blkid', ['-p', '-s', 'PTTYPE', '-o', 'value', diskDevice], { okCodes: [0, 2] })
    return {
      device: `/dev/${basename(path)}`,
      disk: diskDevice,
      number: await number(`${path}/partition`),
      endBytes,
      diskBytes: (await number(`${disk}/size`)) * SECTOR,
      isLast: endBytes === Math.max(...ends),
      table: table.trim() === 'gpt' ? 'gpt' : 'dos',
    }
  } catch (cause) {
    if (cause instanceof FlotillaError) throw cause
    throw new FlotillaError('DISK_FAILED', `look at ${device}: ${messageOf(cause)}`, { cause })
  }
}
