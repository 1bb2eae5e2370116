import { spawn } from 'node:child_process'
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
  } catch {
    // not allowed here
  }
  spawn('ionice', ['-c', '3', '-p', String(process.pid)], { stdio: 'ignore' }).on('error', () => {})
}
