import { describe, expect, it } from 'vitest'
import type { FleetRow } from '../../protocol/gossip/fleet-rows.ts'
import { encodeRelease } from '../../protocol/release/description.ts'
import { sampleDescription } from '../../protocol/release/sample-description.ts'
import { judgeSpread } from './seed-command.ts'

const release = encodeRelease(sampleDescription())
const row = (name: string, more: Partial<FleetRow>): FleetRow => ({
  device: name,
  name,
  board: 'pi-4',
  state: 'proven',
  version: '1',
  releaseId: 'a'.repeat(64),
  next: '',
  percent: 0,
  holds: [],
  haltedId: '',
  reason: '',
  log: '',
  ageSeconds: 0,
  backup: undefined,
  ...more,
})

describe('watching a release spread', () => {
  it('lets the laptop go only when the first device has verified all of it', () => {
    const holds = (more: Partial<FleetRow>) => judgeSpread([row('a', more)], release, 'a').firstHolds
    expect(holds({ state: 'fetching', next: '2', percent: 100 })).toBe(false)
    expect(holds({ state: 'written', next: '2', percent: 100 })).toBe(true)
    expect(holds({ holds: [release.id] })).toBe(true)
    expect(holds({ releaseId: release.id })).toBe(true)
  })

  it('is settled when every device of the board is proven or fell back, whatever other boards do', () => {
    const proven = row('a', { releaseId: release.id, version: '2' })
    const back = row('b', { state: 'fell-back', reason: '2: arm' })
    const other = row('c', { board: 'odroid-xu' })
    expect(judgeSpread([proven, back, other], release, 'a')).toMatchObject({ settled: true, proven: 1, of: 2 })
    expect(judgeSpread([proven, row('b', {})], release, 'a').settled).toBe(false)
    expect(judgeSpread([], release, 'a').settled).toBe(false)
  })
})
