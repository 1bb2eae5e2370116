import { setTimeout as pause } from 'node:timers/promises'

/** Does something again and again, with a pause after each time, until the signal; what is under way is finished. */
export async function repeat(work: () => Promise<void>, pauseMs: () => number, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await work()
    await pause(pauseMs(), undefined, { signal }).catch(() => {}) // it ends
  }
}
