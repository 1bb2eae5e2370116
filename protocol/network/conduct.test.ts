import { describe, expect, it } from 'vitest'
import { Conduct } from './conduct.ts'

describe('conduct', () => {
  it('of an honest peer in a fleet of 500 that all upgrade at once is never held against it', () => {
    const conduct = new Conduct()
    for (let second = 0; second < 600; second += 1) {
      const nowMs = second * 1_000
      // Two records a second of itself, and those of 200 others that it passes on.
      for (const half of [0, 500]) {
        expect(conduct.told('peer', 'peer', nowMs + half)).toBeUndefined()
        for (let other = 0; other < 100; other += 1)
          expect(conduct.told('peer', `other-${other}-${half}`, nowMs + half)).not.toMatchObject({ code: 'FLOOD' })
      }
      if (second % 8 === 0) expect(conduct.opened('peer', nowMs)).toBeUndefined()
    }
  })

  it('of a flood is FLOOD for who tells of itself, and deafness towards what is passed on', () => {
    const conduct = new Conduct()
    const verdicts = Array.from({ length: 60 }, (_, at) => conduct.told('x', 'x', at))
    expect(verdicts.at(-1)).toMatchObject({ code: 'FLOOD' })
    const passedOn = Array.from({ length: 60 }, (_, at) => conduct.told('m', 'y', at))
    expect(passedOn.at(-1)).toBe('ignore')
  })

  it('of somebody who repeats the news of another does not count against that one, nor for what others tell of it', () => {
    const conduct = new Conduct()
    for (let at = 0; at < 200; at += 1) conduct.told('hostile', 'victim', at * 10)
    expect(conduct.told('victim', 'victim', 2_000)).toBeUndefined()
    expect(conduct.told('honest', 'victim', 2_000)).toBeUndefined()
  })

  it('of a peer with another policy is borne for a whole book of records, of one that tells untruths for eight', () => {
    const conduct = new Conduct()
    const strange = Array.from({ length: 2_000 }, () => conduct.toldStrangeNews('lagging', 0))
    expect(strange.every((verdict) => verdict === undefined)).toBe(true)
    const untrue = Array.from({ length: 9 }, () => conduct.toldBadNews('liar', 0))
    expect(untrue.at(-2)).toBeUndefined()
    expect(untrue.at(-1)).toMatchObject({ code: 'BAD_NEWS' })
  })
})
