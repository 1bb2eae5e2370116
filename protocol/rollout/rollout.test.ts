import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { judgeFailures, judgeLease, judgeWave, type RolloutPeer } from './judge-rollout.ts'
import { NO_ROLLOUT, parseRolloutPlan, type RolloutPlan, waveOf } from './rollout-plan.ts'

const ID = 'a'.repeat(64)
const plan: RolloutPlan = { ...NO_ROLLOUT, shares: [10, 50, 100], patienceSeconds: 1_000, maxFailed: 2 }
const deviceInWave = (wave: number, from = 0): string => {
  for (let at = from; ; at += 1) if (waveOf(plan, ID, `d${at}`, {}) === wave) return `d${at}`
}
const peer = (device: string, change: Partial<RolloutPeer> = {}): RolloutPeer => ({
  device,
  labels: {},
  running: { id: 'b'.repeat(64), era: 1, seq: 1 },
  soaked: true,
  failedId: undefined,
  rebooting: false,
  wishes: undefined,
  ageMs: 0,
  ...change,
})
const healthy = (device: string) => peer(device, { running: { id: ID, era: 1, seq: 2 } })
const ask = (
  wave: number,
  peers: readonly RolloutPeer[],
  change: { waitedMs?: number; openWaves?: number; plan?: RolloutPlan } = {},
) =>
  judgeWave({
    release: { id: ID, era: 1, seq: 2, plan: change.plan ?? plan },
    device: { id: deviceInWave(wave), labels: {} },
    peers,
    waitedMs: change.waitedMs ?? 0,
    openWaves: change.openWaves ?? 0,
  }).open

describe('a rollout plan', () => {
  it('takes rising shares that end with the whole fleet, and nothing else', () => {
    expect(parseRolloutPlan({ shares: [5, 100] }, 'rollout').shares).toEqual([5, 100])
    for (const shares of [[], [50], [50, 40, 100], [0, 100], [100, 100], [101]]) {
      expect(() => parseRolloutPlan({ shares }, 'rollout'), String(shares)).toThrow(/rollout.shares/)
    }
  })

  it('puts each device into one wave, about as many as the shares say, and others for another release', () => {
    const devices = Array.from({ length: 2_000 }, (_, at) => `device-${at}`)
    const waves = devices.map((device) => waveOf(plan, ID, device, {}))
    const counts = [0, 1, 2].map((wave) => waves.filter((found) => found === wave).length)
    expect(counts[0]).toBeGreaterThan(150)
    expect(counts[0]).toBeLessThan(250)
    expect(counts[2]).toBeGreaterThan(900)
    const other = devices.filter((device, at) => waveOf(plan, 'b'.repeat(64), device, {}) !== waves[at])
    expect(other.length).toBeGreaterThan(500)
  })
})

describe('a wave', () => {
  it('opens when enough of every wave before it is healthy', () => {
    const first = [0, 1_000, 2_000, 3_000, 4_000].map((from) => deviceInWave(0, from))
    expect(ask(1, first.map(healthy))).toBe(true)
    expect(ask(1, [...first.slice(1).map(healthy), peer(first[0] ?? '')])).toBe(true) // 80 %
    expect(ask(1, [...first.slice(2).map(healthy), ...first.slice(0, 2).map((device) => peer(device))])).toBe(false)
    expect(ask(2, first.map(healthy)), 'wave 1 is missing').toBe(false)
    expect(ask(2, [...first.map(healthy), healthy(deviceInWave(1))])).toBe(true)
  })

  it('does not count a device that has not run the release long enough, reboots, or was not heard of lately', () => {
    const device = deviceInWave(0)
    expect(ask(1, [{ ...healthy(device), soaked: false }])).toBe(false)
    expect(ask(1, [{ ...healthy(device), rebooting: true }])).toBe(false)
    expect(ask(1, [{ ...healthy(device), ageMs: 1_200_001 }])).toBe(false)
    // Devices at rest speak rarely, however short the patience.
    expect(ask(1, [{ ...healthy(device), ageMs: 1_100_000 }])).toBe(true)
    expect(ask(1, [peer(device, { running: { id: 'c'.repeat(64), era: 1, seq: 3 } })]), 'a later release').toBe(true)
  })

  it('passes over an empty wave only when the whole fleet is in sight', () => {
    const known = { ...plan, devices: 2 }
    expect(ask(1, [peer(deviceInWave(2))])).toBe(false)
    expect(ask(1, [peer(deviceInWave(2))], { plan: known })).toBe(true)
    expect(ask(1, [], { plan: known })).toBe(false)
  })

  it('opens by itself after the patience of all waves before it, or when the operator says so', () => {
    expect(ask(2, [], { waitedMs: 1_999_999 })).toBe(false)
    expect(ask(2, [], { waitedMs: 2_000_000 })).toBe(true)
    expect(ask(2, [], { openWaves: 2 })).toBe(false)
    expect(ask(2, [], { openWaves: 3 })).toBe(true)
  })
})

describe('failures elsewhere', () => {
  const failures = (failed: number, passed: number) =>
    judgeFailures({ id: ID, plan }, [
      ...Array.from({ length: failed }, (_, at) => peer(`f${at}`, { failedId: ID })),
      ...Array.from({ length: passed }, (_, at) => healthy(`p${at}`)),
    ]) !== undefined

  it('halt a release at the number and the share of the plan', () => {
    expect(failures(1, 0)).toBe(false)
    expect(failures(2, 0)).toBe(true)
    expect(failures(2, 8)).toBe(true)
    expect(failures(2, 9)).toBe(false)
    expect(judgeFailures({ id: ID, plan: NO_ROLLOUT }, [peer('f', { failedId: ID })])).toBeUndefined()
  })
})

describe('a reboot lease', () => {
  const labels = { cell: 'hall' }
  const lease = (peers: readonly RolloutPeer[], wishedMs: number, rebootsPerCell = 1) =>
    judgeLease({
      release: { id: ID, plan: { ...plan, rebootsPerCell } },
      device: { id: 'me', labels },
      peers,
      wishedMs,
      leaseMs: 60_000,
    }).open

  it('is given when the wish was heard and nobody of the cell reboots or goes first', () => {
    expect(lease([], 0)).toBe(false)
    expect(lease([], 4_000)).toBe(true)
    expect(lease([peer('x', { labels, rebooting: true })], 4_000)).toBe(false)
    expect(lease([peer('x', { labels, rebooting: true })], 4_000, 2)).toBe(true)
    expect(lease([peer('x', { labels: { cell: 'yard' }, rebooting: true })], 4_000)).toBe(true)
  })

  it('lapses when its holder has been silent for longer than a trial can take', () => {
    expect(lease([peer('x', { labels, rebooting: true, ageMs: 60_001 })], 4_000)).toBe(true)
    expect(lease([peer('x', { labels, wishes: ID, ageMs: 150_001 })], 4_000)).toBe(true)
  })

  it('goes to exactly one of any two that wish at the same time', () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1 }), fc.string({ minLength: 1 }), (one, two) => {
        fc.pre(one !== two)
        const open = [
          [one, two],
          [two, one],
        ].map(([self = '', other = '']) =>
          judgeLease({
            release: { id: ID, plan: { ...plan, rebootsPerCell: 1 } },
            device: { id: self, labels },
            peers: [peer(other, { labels, wishes: ID })],
            wishedMs: 4_000,
            leaseMs: 60_000,
          }),
        )
        expect(open.filter((verdict) => verdict.open)).toHaveLength(1)
      }),
    )
  })
})
