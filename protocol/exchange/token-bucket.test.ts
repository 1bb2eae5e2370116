import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { TokenBucket } from './token-bucket.ts'

describe('a token bucket', () => {
  it('never lets more through than rate × time and one burst, whatever the pieces', () => {
    const steps = fc.array(
      fc.record({ ms: fc.integer({ min: 0, max: 500 }), bytes: fc.integer({ min: 1, max: 262_144 }) }),
    )
    fc.assert(
      fc.property(fc.integer({ min: 1_000, max: 50_000_000 }), steps, (rate, list) => {
        const bucket = new TokenBucket(rate, 0)
        let nowMs = 0
        let sent = 0
        for (const { ms, bytes } of list) {
          nowMs += ms
          if (bucket.available(nowMs) <= 0) continue
          bucket.take(bytes, nowMs)
          sent += bytes
        }
        expect(sent).toBeLessThanOrEqual((rate * nowMs) / 1_000 + Math.max(65_536, rate / 20) + 262_144)
      }),
    )
  })

  it('reaches its rate when it is always asked', () => {
    const bucket = new TokenBucket(1_000_000, 0)
    let nowMs = 0
    let sent = 0
    while (nowMs < 10_000) {
      nowMs += bucket.waitMs(nowMs)
      bucket.take(65_536, nowMs)
      sent += 65_536
    }
    expect(sent).toBeGreaterThan(9_900_000)
    expect(sent).toBeLessThan(10_300_000)
  })

  it('is open at Infinity and shut at 0, and changes between them at once', () => {
    const bucket = new TokenBucket(Infinity, 0)
    bucket.take(10 ** 12, 0)
    expect(bucket.waitMs(0)).toBe(0)
    bucket.setRate(0, 1)
    expect(bucket.waitMs(1)).toBe(Infinity)
    bucket.setRate(1_000, 2)
    expect(bucket.waitMs(60_000)).toBe(0)
  })
})
