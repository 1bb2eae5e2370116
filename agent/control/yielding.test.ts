import { describe, expect, it } from 'vitest'
import { parseRoundTrips } from './round-trips.ts'
import { Yielding } from './yielding.ts'

const MB = 1_000_000

/** A link with a queue: what is sent above its rate waits. @returns the queue after so many seconds, and the last rate */
function drive(targetMs: number, linkRate: number, seconds: number) {
  const yielding = new Yielding(targetMs)
  let queued = 0
  let rate = Infinity
  const seen: number[] = []
  for (let second = 0; second < seconds; second += 1) {
    const sent = Math.min(rate, linkRate * 3) // TCP fills whatever queue there is
    queued = Math.max(0, Math.min(queued + sent - linkRate, linkRate)) // the queue holds one second
    const rttMs = 5 + (queued / linkRate) * 1_000
    ;({ rate } = yielding.judge([{ rttMs, leastMs: 5, movedBytes: 1 }], Math.min(sent, linkRate)))
    seen.push(rttMs - 5)
  }
  return { rate, settled: seen.slice(20) }
}

describe('yielding to the robot', () => {
  it('brings the queue of a slow link down to the target and still uses the link', () => {
    const { rate, settled } = drive(100, MB, 120)
    expect(settled.reduce((a, b) => a + b) / settled.length).toBeLessThan(200)
    expect(rate).toBeGreaterThan(MB / 4)
    expect(rate).toBeLessThan(MB * 1.5)
  })

  it('does nothing while round trips are short, when it is switched off, or when nothing moves', () => {
    const yielding = new Yielding(100)
    expect(yielding.judge([{ rttMs: 90, leastMs: 1, movedBytes: 1 }], MB).rate).toBe(Infinity)
    expect(yielding.judge([{ rttMs: 400, leastMs: 1, movedBytes: 1 }], MB).rate).toBe(MB / 2)
    expect(yielding.judge([], 0).rate, 'forgotten slowly').toBe((MB / 2) * 1.25)
    for (let second = 0; second < 60; second += 1) yielding.judge([], 0)
    expect(yielding.judge([], 0).rate).toBe(Infinity)
    expect(new Yielding(0).judge([{ rttMs: 4_000, leastMs: 1, movedBytes: 1 }], MB).rate).toBe(Infinity)
  })

  it('is not slowed down by one neighbour that answers late', () => {
    const trip = (rttMs: number, movedBytes: number) => ({ rttMs, leastMs: 2, movedBytes })
    expect(new Yielding(100).judge([trip(900, 40), trip(8, 30), trip(9, 30)], MB).rate).toBe(Infinity)
    // When most of the bytes meet the queue, it is the link, however many connections rest beside it.
    expect(new Yielding(100).judge([trip(900, 60), trip(8, 30), trip(9, 10), trip(9, 0)], MB).rate).toBeLessThan(MB)
  })

  it('is not fooled by a path that is long', () => {
    expect(new Yielding(100).judge([{ rttMs: 600, leastMs: 580, movedBytes: 1 }], MB).rate).toBe(Infinity)
  })

  it('reads what the kernel knows; connections that rest say nothing', () => {
    // Printed by ss of iproute2 6.1, addresses and most fields left out.
    const lines = [
      '0 0 10.77.0.1:4849 10.77.0.2:51234 cubic wscale:7,7 rto:230 rtt:25.5/3.1 cwnd:200 bytes_sent:99 bytes_acked:90 bytes_received:7 lastsnd:4 lastack:8 minrtt:0.05',
      '0 0 10.77.0.1:4848 10.77.0.3:51235 cubic rtt:300/9 lastsnd:9000 lastrcv:9000 lastack:9000 minrtt:1',
      '0 0 10.77.0.1:4848 10.77.0.4:51236',
    ]
    expect(parseRoundTrips(lines.join('\n'))).toEqual([
      { connection: '10.77.0.1:4849 10.77.0.2:51234', rttMs: 25.5, leastMs: 0.05, totalBytes: 97 },
    ])
  })
})
