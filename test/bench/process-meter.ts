import { readdirSync, readFileSync } from 'node:fs'

/** Samples until called. @returns MiB that the larger of the two trees of processes had at most */
export function watchMemory(roots: readonly number[]): () => number {
  let most = 0
  const timer = setInterval(() => {
    for (const root of roots) most = Math.max(most, treeResidentKib(root))
  }, 100)
  return () => {
    clearInterval(timer)
    return most / 1_024
  }
}

function treeResidentKib(root: number): number {
  const parents = new Map<number, number>()
  for (const name of readdirSync('/proc')) {
    if (/^\d+$/.test(name)) parents.set(Number(name), Number(statFields(Number(name))[1] ?? 0))
  }
  const isBelow = (pid: number): boolean => pid === root || (pid > 1 && isBelow(parents.get(pid) ?? 0))
  let sum = 0
  for (const pid of parents.keys()) {
    if (!isBelow(pid)) continue
    const status = readProc(pid, 'status')
    sum += Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0)
  }
  return sum
}

function readProc(pid: number, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'latin1')
  } catch {
    return '' // it has ended
  }
}

/** Fields of /proc/PID/stat from the state on. */
function statFields(pid: number): readonly string[] {
  return readProc(pid, 'stat').split(') ').at(-1)?.split(' ') ?? []
}

const TICKS_PER_SECOND = 100 // USER_HZ, on every architecture that Debian has

/** Processor seconds of a process so far. */
export function cpuSeconds(pid: number): number {
  const fields = statFields(pid)
  return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) / TICKS_PER_SECOND
}

/** Of children that have ended and were waited for. */
export function childCpuSeconds(pid: number): number {
  const fields = statFields(pid)
  return (Number(fields[13] ?? 0) + Number(fields[14] ?? 0)) / TICKS_PER_SECOND
}
