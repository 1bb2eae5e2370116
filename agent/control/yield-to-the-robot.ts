import { spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { setPriority } from 'node:os'

/**
 * Puts the agent behind the robot's own programs: processor by `nice`, disk by the idle class where `ionice` exists.
 * A courtesy: what a system does not allow is left as it is.
 * @param nice - 0 … 19; 0 leaves everything as it is
 */
export function yieldToTheRobot(nice: number): void {
  if (nice === 0) return
  try {
    setPriority(nice)
    if (leadsItsSession()) writeFileSync('/proc/self/autogroup', String(nice))
  } catch {
    // not allowed, or not there
  }
  spawn('ionice', ['-c', '3', '-p', String(process.pid)], { stdio: 'ignore' }).on('error', () => {})
}

/**
 * Linux gives each session the same share of the processor (sched_autogroup(7)), and `nice` counts only within one, unless the
 * session itself is nice. A session that this process does not lead belongs to somebody else as well.
 */
function leadsItsSession(): boolean {
  const [, fields = ''] = readFileSync('/proc/self/stat', 'latin1').split(') ')
  return fields.split(' ')[3] === String(process.pid)
}
