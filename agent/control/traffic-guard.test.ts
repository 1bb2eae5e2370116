import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { parseAgentConfig } from '../config.ts'
import { MemoryDisk } from '../store/memory-disk.ts'
import { DayCount } from './day-count.ts'
import { MovedBytes } from './moved-bytes.ts'
import { TrafficGuard } from './traffic-guard.ts'
import type { RoundTrip } from './yielding.ts'

const LATE: RoundTrip = { rttMs: 900, leastMs: 5, movedBytes: 1 }
const FAST: RoundTrip = { rttMs: 6, leastMs: 5, movedBytes: 1 }

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance', 'Date'] })
})
afterEach(() => {
  vi.useRealTimers()
})

async function guardWith(
  roundTrips: () => Promise<readonly RoundTrip[] | undefined>,
  yaml = '',
  disk = new MemoryDisk(),
) {
  const moved = new MovedBytes(() => 'wlan0')
  const looked = vi.fn(roundTrips)
  let onJudged = () => {}
  const guard = await TrafficGuard.open({
    // Nothing asks NetworkManager here.
    rules: { ...parseAgentConfig(`hardware: x\n${yaml}`, 'agent.yaml').traffic, meteredRate: Infinity },
    file: '/nonexistent/traffic',
    moved,
    day: await DayCount.open(disk),
    floorMs: () => 0,
    roundTrips: looked,
    apply: () => onJudged(),
  })
  /** A second passes, and what the guard does in it is done: its tick waits for real files. */
  const second = async (bytes: number) => {
    const judged = new Promise<void>((resolve) => (onJudged = resolve))
    await startSecond(bytes)
    await judged
    await new Promise((resolve) => setImmediate(resolve))
  }
  const startSecond = async (bytes: number) => {
    moved.fetched(bytes, 'peer')
    await vi.advanceTimersByTimeAsync(1_000)
  }
  return { guard, looked, second, startSecond }
}

describe('the traffic guard', () => {
  it('sees a queue on a link on which chunks are seconds apart', async () => {
    const { guard, second } = await guardWith(() => Promise.resolve([LATE]))
    for (let n = 0; n < 9; n += 1) await second(n % 2 === 0 ? 65_536 : 0)
    expect(guard.verdict.reasons).toEqual([expect.stringMatching(/round trips rose by 895 ms/)])
    await guard.stop()
  })

  it('asks every third second while queues are short, every second when they are not, and not at rest', async () => {
    let trip = FAST
    const { guard, looked, second } = await guardWith(() => Promise.resolve([trip]))
    for (let n = 0; n < 9; n += 1) await second(1_000_000)
    expect(looked).toHaveBeenCalledTimes(3)
    trip = LATE
    for (let n = 0; n < 9; n += 1) await second(1_000_000)
    expect(looked.mock.calls.length).toBeGreaterThan(9)
    const before = looked.mock.calls.length
    for (let n = 0; n < 9; n += 1) await second(0)
    expect(looked).toHaveBeenCalledTimes(before)
    await guard.stop()
  })

  it('keeps what held when the system does not tell, and asks once at a time', async () => {
    let answer: () => Promise<readonly RoundTrip[] | undefined> = () => Promise.resolve([LATE])
    const { guard, looked, second, startSecond } = await guardWith(() => answer())
    for (let n = 0; n < 3; n += 1) await second(1_000_000)
    const { sendRate } = guard.verdict
    expect(sendRate).toBeLessThan(Infinity)
    answer = () => Promise.resolve(undefined)
    for (let n = 0; n < 3; n += 1) await second(1_000_000)
    expect(guard.verdict.sendRate).toBe(sendRate)
    answer = () => new Promise(() => {})
    const before = looked.mock.calls.length
    for (let n = 0; n < 5; n += 1) await startSecond(1_000_000)
    expect(looked).toHaveBeenCalledTimes(before + 1)
    await guard.stop()
  })

  it('remembers a small budget over a restart, to an eighth of it, and all when it was told to stop', async () => {
    const yaml = 'traffic: {maxDelayMs: 0, dailyMiB: {wlan0: 10}}'
    const disk = new MemoryDisk()
    const first = await guardWith(() => Promise.resolve([]), yaml, disk)
    for (let n = 0; n < 4; n += 1) await first.second(2 ** 20)
    vi.clearAllTimers() // it is killed
    const second = await guardWith(() => Promise.resolve([]), yaml, disk)
    expect(second.guard.todayBytes).toBeGreaterThan(2 * 2 ** 20)
    await second.second(1)
    await second.guard.stop()
    const third = await guardWith(() => Promise.resolve([]), yaml, disk)
    expect(third.guard.todayBytes).toBe(second.guard.todayBytes)
    await third.second(8 * 2 ** 20)
    expect(third.guard.verdict.reasons).toEqual(['nothing over wlan0: its daily budget is used up'])
    await third.guard.stop()
  })
})
