import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Allowance } from './allowance.ts'

describe('an allowance', () => {
  it('lets a burst through, then so many a second, each key for itself', () => {
    const allowance = new Allowance({ burst: 3, perSecond: 2 })
    const spent = (key: string, nowMs: number) => allowance.spend(key, nowMs)
    expect([spent('a', 0), spent('a', 0), spent('a', 0), spent('a', 0)]).toEqual([true, true, true, false])
    expect(spent('b', 0)).toBe(true)
    expect([spent('a', 500), spent('a', 500)]).toEqual([true, false])
  })

  it('never lets more through than burst and rate allow, whatever the times', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(2_000), { maxLength: 200 }), (steps) => {
        const allowance = new Allowance({ burst: 5, perSecond: 3 })
        let nowMs = 0
        let passed = 0
        for (const step of steps) {
          nowMs += step
          if (allowance.spend('x', nowMs)) passed += 1
        }
        expect(passed).toBeLessThanOrEqual(5 + Math.ceil((nowMs * 3) / 1_000))
      }),
    )
  })

  it('remembers a bounded number of keys', () => {
    const allowance = new Allowance({ burst: 1, perSecond: 0 })
    expect(allowance.spend('first', 0)).toBe(true)
    for (let at = 0; at < 5_000; at += 1) allowance.spend(`key ${at}`, 1)
    expect(allowance.spend('first', 2)).toBe(true)
    expect(allowance.spend('key 4999', 2)).toBe(false)
  })
})
