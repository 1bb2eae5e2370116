import { describe, expect, it } from 'vitest'
import { type DeviceFacts, judgeInstall } from './judge-install.ts'
import { sampleDescription } from './sample-description.ts'

const device: DeviceFacts = {
  board: 'pi-4',
  channel: 'stable',
  hardware: 'pi-4',
  floor: { era: 1, seq: 3 },
  running: { era: 1, seq: 5 },
  runningId: 'running',
  bad: ['bad'],
  dataVersion: 0,
}
const judge = (id: string, fields: Parameters<typeof sampleDescription>[0] = {}) => {
  const verdict = judgeInstall(id, sampleDescription({ board: 'pi-4', hardware: ['pi-4'], seq: 6, ...fields }), device)
  return verdict.install ? 'install' : verdict.reason
}

describe('a device', () => {
  it('installs what is newer and for it', () => {
    expect(judge('new')).toBe('install')
    expect(judge('new', { board: 'pi-3' })).toBe('OTHER_BOARD')
    expect(judge('new', { channel: 'beta' })).toBe('OTHER_CHANNEL')
    expect(judge('new', { hardware: ['pi-400'] })).toBe('OTHER_HARDWARE')
    expect(judge('bad')).toBe('FAILED_BEFORE')
    expect(judge('running', { seq: 5 })).toBe('RUNNING')
  })

  it('never goes back in era and sequence, and says when two releases bear one', () => {
    expect(judge('old', { seq: 4 })).toBe('ROLLBACK')
    expect(judge('old era', { era: 0, seq: 99 })).toBe('ROLLBACK')
    expect(judge('twin', { seq: 5 })).toBe('SAME_SEQUENCE')
    expect(judge('next era', { era: 2, seq: 1 })).toBe('install')
  })
})
