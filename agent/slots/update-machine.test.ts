import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { chooseGarbage } from './choose-garbage.ts'
import { IDLE, stepUpdate, type UpdateInput, type UpdateState } from './update-machine.ts'

const ID = 'a'.repeat(64)
const OTHER = 'b'.repeat(64)
const SLOT = 'a'.repeat(16)
const OLD = 'c'.repeat(16)
const release = { id: ID, version: '2', era: 1, seq: 2, tries: 3 }
const started = (slot: string, more: Partial<Extract<UpdateInput, { type: 'started' }>> = {}): UpdateInput => ({
  type: 'started',
  oneShot: false,
  trace: '',
  slot,
  good: OLD,
  remaining: undefined,
  counted: true,
  ...more,
})

function run(inputs: readonly UpdateInput[], from: UpdateState = IDLE): { state: UpdateState; effects: string[] } {
  let state = from
  const effects: string[] = []
  for (const input of inputs) {
    const next = stepUpdate(state, input)
    state = next.state
    effects.push(...next.effects.map((effect) => effect.type))
  }
  return { state, effects }
}
const toTrial: readonly UpdateInput[] = [
  { type: 'candidate', release },
  { type: 'written', id: ID },
  { type: 'may-reboot' },
  started(SLOT, { remaining: 2 }),
]

describe('an update', () => {
  it('goes from candidate to proven, arming only after everything was written', () => {
    const { state, effects } = run([
      ...toTrial,
      { type: 'healthy', proven: { floor: { era: 1, seq: 1 }, dataVersion: 0 } },
      { type: 'confirmed', proven: { floor: { era: 1, seq: 1 }, dataVersion: 0 } },
    ])
    expect(effects.filter((effect) => effect !== 'tell')).toEqual([
      'fetch',
      'arm',
      'reboot',
      'judge-health',
      'mark-good',
      'then',
    ])
    expect(state).toMatchObject({ phase: 'idle', outcome: 'proven', floor: { era: 1, seq: 1 } })
  })

  it('is disarmed by a halt in every phase before it is proven, and does not come back when the halt is lifted', () => {
    for (let steps = 1; steps <= toTrial.length; steps += 1) {
      const { state, effects } = run([...toTrial.slice(0, steps), { type: 'halt', id: ID, reason: 'drifts' }])
      expect(state, `after ${steps} steps`).toMatchObject({ phase: 'idle', target: undefined })
      expect(effects).toContain('mark-bad')
      const again = run([{ type: 'candidate', release }], state)
      expect(again.effects).not.toContain('fetch')
      expect(run([{ type: 'candidate', release: { ...release, id: OTHER, seq: 3 } }], state).effects).toContain('fetch')
    }
  })

  it('heeds a halt that comes before the release', () => {
    const { effects } = run([
      { type: 'halt', id: ID, reason: 'drifts' },
      { type: 'candidate', release },
    ])
    expect(effects).not.toContain('fetch')
  })

  it('waits with a newer release while one is on trial', () => {
    const { state } = run([...toTrial, { type: 'candidate', release: { ...release, id: OTHER, seq: 3 } }])
    expect(state.target?.id).toBe(ID)
  })

  it('takes a newer release instead of one that is still being fetched', () => {
    expect(
      run([
        { type: 'candidate', release },
        { type: 'candidate', release: { ...release, id: OTHER, seq: 3 } },
      ]).state.target?.id,
    ).toBe(OTHER)
  })

  it('never tries a release again that failed here', () => {
    const failed = run([...toTrial, { type: 'unhealthy', reason: 'arm', log: '' }])
    expect(failed.effects.slice(-3)).toEqual(['mark-bad', 'tell', 'reboot'])
    expect(run([{ type: 'candidate', release }], failed.state).effects).toEqual([])
  })

  it('does not blame a release when only the agent was restarted between arming and the reboot', () => {
    const armed = run(toTrial.slice(0, 3)).state
    const again = run([started(OLD, { remaining: 3, counted: false })], armed)
    expect(again.effects).toEqual(['reboot'])
    expect(again.state.failed).toEqual([])
    // A loader that never counts must not be tried for ever.
    const stuck = run(
      Array.from({ length: 12 }, () => started(OLD, { remaining: 3, counted: false })),
      armed,
    )
    expect(stuck.state.failed.map((entry) => entry.version)).toEqual(['2'])
  })

  it('writes again what was never armed, and falls back when the tries are used up', () => {
    const armed = run(toTrial.slice(0, 3)).state
    expect(run([started(OLD)], armed).state.phase).toBe('fetching')
    expect(run([started(OLD, { remaining: 0 })], armed).state).toMatchObject({ phase: 'idle', outcome: 'fell-back' })
  })

  it('finishes a rollback by hand that was cut off, and does not loop when both slots failed once', () => {
    const rolled = run([{ type: 'rollback', running: { id: ID, version: '2' }, to: OLD, reason: 'drifts' }])
    expect(rolled.effects).toEqual(['mark-bad', 'mark-good', 'reboot', 'tell'])
    expect(run([started(SLOT, { good: SLOT })], rolled.state).effects).toEqual(['mark-bad', 'mark-good', 'reboot'])
    const arrived = run([started(OLD)], rolled.state)
    expect(arrived.effects).toEqual([])
    expect(run([started(SLOT, { good: SLOT })], arrived.state).effects).toEqual([])
  })

  it('ends after a bounded number of steps whatever happens', () => {
    const input: fc.Arbitrary<UpdateInput> = fc.oneof(
      fc.constant<UpdateInput>({ type: 'written', id: ID }),
      fc.constant<UpdateInput>({ type: 'may-reboot' }),
      fc
        .record({
          slot: fc.constantFrom(SLOT, OLD),
          remaining: fc.constantFrom(undefined, 0, 1, 2),
          counted: fc.boolean(),
        })
        .map(({ slot, ...more }) => started(slot, more)),
    )
    fc.assert(
      fc.property(fc.array(input, { minLength: 200, maxLength: 300 }), (inputs) => {
        const { state, effects } = run([{ type: 'candidate', release }, ...inputs])
        expect(effects.filter((effect) => effect === 'arm').length).toBeLessThan(20)
        expect(state.transitions).toBeLessThanOrEqual(60)
      }),
    )
  })
})

describe('garbage', () => {
  it('never names what runs, what boots, what is written, or the newest other proven release', () => {
    const slot = (name: string, seq: number, proven = true) => ({ slot: name, proven, sequence: { era: 1, seq } })
    const slots = [slot('a', 1), slot('b', 2), slot('c', 3), slot('d', 4, false), slot('e', 5, false)]
    expect(chooseGarbage(slots, { running: 'c', good: 'c', target: 'e' }, 1)).toEqual(['a', 'd'])
    expect(chooseGarbage(slots, { running: 'a', good: 'b', target: undefined }, 0)).toEqual(['d', 'e'])
  })
})
