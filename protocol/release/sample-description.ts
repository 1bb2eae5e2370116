import { NO_ROLLOUT } from '../rollout/rollout-plan.ts'
import type { ReleaseDescription } from './description.ts'

/** A small valid description, for tests: change what the test is about. */
export function sampleDescription(change: Partial<ReleaseDescription> = {}): ReleaseDescription {
  return {
    schema: 1,
    board: 'pi-4',
    channel: 'stable',
    version: '2',
    era: 1,
    seq: 2,
    minSeq: 0,
    hardware: ['pi-4'],
    issued: '2026-11-24T00:00:00Z',
    artifacts: [],
    health: { deadlineSeconds: 60, tries: 3 },
    rollout: NO_ROLLOUT,
    from: { era: 0, seq: 0 },
    data: { writes: 0, reads: 0 },
    notes: '',
    ...change,
  }
}
