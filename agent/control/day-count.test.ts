import { describe, expect, it } from 'vitest'
import { MemoryDisk } from '../store/memory-disk.ts'
import { DayCount } from './day-count.ts'
import { MovedBytes } from './moved-bytes.ts'

const DAY_MS = 86_400_000

describe("a day's traffic", () => {
  it('is counted by interface, survives a restart, and ends with the day, which never goes back', async () => {
    const disk = new MemoryDisk()
    const moved = new MovedBytes((peer) => (peer === 'near' ? 'wlan0' : 'wwan0'))
    const first = await DayCount.open(disk)
    moved.fetched(20 * 2 ** 20, 'near')
    moved.served(5, 'far')
    first.count(moved.byLink, 3 * DAY_MS)
    expect(first.total).toBe(0) // until then it was the day before
    moved.fetched(20 * 2 ** 20, 'near')
    moved.served(7, 'far')
    first.count(moved.byLink, 3 * DAY_MS + 1)
    first.count(moved.byLink, DAY_MS) // the clock went back
    expect([...first.byLink]).toEqual([
      ['wlan0', 20 * 2 ** 20],
      ['wwan0', 7],
    ])
    await first.save(8 * 2 ** 20)
    const again = await DayCount.open(disk)
    expect([...again.byLink]).toEqual([...first.byLink])
    again.count(new Map([['wwan0', 3]]), 3 * DAY_MS + 2)
    expect(again.byLink.get('wwan0')).toBe(10)
  })
})
