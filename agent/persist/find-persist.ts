import { existsSync } from 'node:fs'
import { readdir, readFile, realpath } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { readMounts } from './mounts.ts'
import type { PersistDevice } from './plan-persist.ts'
import { runProgram } from './run-program.ts'

const SECTOR = 512
const LOOK_AGAIN_MS = 250

/**
 * Waits for the partition whose file system has the label. A stick or card with the same label does not stand in for it: the
 * partition on the disk that the device boots from counts.
 * @throws FlotillaError TIMEOUT when there is none within the time, BAD_INPUT when nothing says which of several it is
 */
export async function findPersist(label: string, timeoutMs: number): Promise<PersistDevice> {
  const deadlineMs = performance.now() + timeoutMs
  for (;;) {
    const listed = await runProgram('blkid', ['-t', `LABEL=${label}`, '-o', 'device'], { okCodes: [0, 2] })
    const devices = listed.split('\n').filter(Boolean)
    if (devices.length > 0)
      return choosePersist(await Promise.all(devices.map((device) => readPersistDevice(device))), await bootDisk())
    if (performance.now() > deadlineMs)
      throw new FlotillaError(
        'TIMEOUT',
        `find persist: no file system is labelled ${label} after ${timeoutMs / 1_000} s`,
      )
    await pause(LOOK_AGAIN_MS)
  }
}

/** The only one, or the one on the disk that the device boots from. Pure. @throws FlotillaError BAD_INPUT */
export function choosePersist(found: readonly PersistDevice[], bootDisk: string | undefined): PersistDevice {
  const beside = found.filter(({ disk }) => disk === bootDisk)
  const [chosen, ...others] = beside.length > 0 ? beside : found
  if (chosen !== undefined && others.length === 0) return chosen
  throw new FlotillaError(
    'BAD_INPUT',
    `find persist: ${found.map(({ device }) => device).join(' and ')} have the same label; take one out, or give it another label`,
  )
}

/** The disk of the partition that is mounted at /boot. */
async function bootDisk(): Promise<string | undefined> {
  const boot = (await readMounts()).find(({ at }) => at === '/boot')
  if (boot === undefined) return undefined
  return readPersistDevice(boot.device).then(
    ({ disk }) => disk,
    () => undefined, // a directory of something else
  )
}

/**
 * What the kernel says of a partition and its disk.
 * @param sys - where sysfs is
 * @throws FlotillaError DISK_FAILED when it is no partition
 */
export async function readPersistDevice(device: string, sys = '/sys'): Promise<PersistDevice> {
  try {
    const path = await realpath(join(sys, 'class/block', basename(device)))
    const disk = dirname(path)
    const number = async (file: string) => Number((await readFile(file, 'latin1')).trim())
    const endOf = async (name: string) =>
      ((await number(join(disk, name, 'start'))) + (await number(join(disk, name, 'size')))) * SECTOR
    // An eMMC has children that are no partitions: mmcblk0boot0.
    const partitions = (await readdir(disk)).filter((name) => existsSync(join(disk, name, 'partition')))
    const ends = await Promise.all(partitions.map(endOf))
    const endBytes = await endOf(basename(path))
    return {
      device: `/dev/${basename(path)}`,
      disk: `/dev/${basename(disk)}`,
      number: await number(join(path, 'partition')),
      endBytes,
      diskBytes: (await number(join(disk, 'size'))) * SECTOR,
      isLast: endBytes === Math.max(...ends),
    }
  } catch (cause) {
    if (cause instanceof FlotillaError) throw cause
    throw new FlotillaError('DISK_FAILED', `look at ${device}: ${messageOf(cause)}`, { cause })
  }
}
