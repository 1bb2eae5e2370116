import { readFile } from 'node:fs/promises'

/** A mounted file system: what it comes from, where it is seen, and how. */
export type Mount = {
  readonly device: string
  readonly at: string
  readonly type: string
  readonly options: readonly string[]
}

/** What this process sees mounted, in the order of mounting (`proc_pid_mounts(5)`). */
export async function readMounts(): Promise<readonly Mount[]> {
  const lines = (await readFile('/proc/self/mounts', 'utf8')).split('\n')
  return lines.map((line) => {
    const [device = '', at = '', type = '', options = ''] = line.split(' ')
    return { device, at, type, options: options.split(',') }
  })
}
