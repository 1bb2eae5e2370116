import { readFile } from 'node:fs/promises'
import { join } from 'node:path'

const NAME = 'flotilla-guard'

/**
 * Ends the process that the initramfs left to reset the device unless the trial is confirmed in time
 * (buildroot/package/flotilla-init/trial.c). Call when the running release is proven.
 * @param processes - where /proc is
 * @returns whether there was one
 */
export async function endTrialGuard(processes = '/proc'): Promise<boolean> {
  const environment = await readFile(join(processes, '1/environ'), 'latin1').catch(() => '')
  const pid = /(?:^|\0)FLOTILLA_GUARD=(\d{1,10})(?:\0|$)/.exec(environment)?.[1]
  if (pid === undefined) return false
  const name = await readFile(join(processes, pid, 'comm'), 'latin1').catch(() => '')
  // The number may be another process by now.
  if (name.trim() !== NAME) return false
  process.kill(Number(pid), 'SIGTERM')
  return true
}
