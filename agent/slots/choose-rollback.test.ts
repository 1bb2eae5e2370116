import { describe, expect, it } from 'vitest'
import { encodeRelease, shortId } from '../../protocol/release/description.ts'
import { sampleDescription } from '../../protocol/release/sample-description.ts'
import { chooseRollback } from './choose-rollback.ts'

const slot = (seq: number, data = { writes: 0, reads: 0 }, proven = true) => {
  const release = encodeRelease(sampleDescription({ seq, version: String(seq), data }))
  return { slot: shortId(release.id), proven, sequence: release.description, release }
}
const running = slot(5)

describe('going back', () => {
  const back = (others: readonly ReturnType<typeof slot>[], floorSeq = 0, dataVersion = 0) =>
    chooseRollback([running, ...others], running.slot, { era: 1, seq: floorSeq }, dataVersion)

  it('takes the newest other proven release', () => {
    expect(back([slot(2), slot(4), slot(3)])).toEqual({ slot: slot(4).slot })
    expect(back([slot(4, undefined, false), slot(3)])).toEqual({ slot: slot(3).slot })
  })

  it('never goes below the floor, and says so', () => {
    expect(back([slot(3)], 4)).toEqual({ reason: 'releases before seq 4 are refused for good (minSeq)' })
  })

  it('never gives data to containers that cannot read it', () => {
    const old = slot(4, { writes: 1, reads: 1 })
    expect(back([old], 0, 1)).toEqual({ slot: old.slot })
    expect(back([old], 0, 2)).toMatchObject({ reason: expect.stringContaining('format 2') })
  })

  it('says when there is nothing to go back to', () => {
    expect(back([])).toMatchObject({ reason: expect.stringContaining('no other proven release') })
  })
})
