import { describe, expect, it } from 'vitest'
import { NO_ROLLOUT, type RolloutPlan, waveOf } from '../../protocol/rollout/rollout-plan.ts'
import { type RolloutScenario, RolloutSimulator } from './rollout-simulator.ts'

const HOUR = 3_600_000
const NEW = '2'.repeat(64)
const SEEDS = [1, 2, 3, 4, 5]
const PLAN: RolloutPlan = {
  ...NO_ROLLOUT,
  shares: [10, 40, 100],
  soakSeconds: 300,
  patienceSeconds: 12 * 3_600,
  maxFailed: 3,
  maxFailedPercent: 20,
}
const scenario = (seed: number, change: Partial<RolloutScenario> = {}): RolloutScenario => ({
  seed,
  devices: 150,
  plan: PLAN,
  tickMs: 30_000,
  labels: () => ({}),
  works: () => true,
  network: () => 0,
  openWaves: 0,
  ...change,
})
const inWave = (wave: number, plan = PLAN) => ({
  filter: (device: { id: string; labels: Readonly<Record<string, string>> }) =>
    waveOf(plan, NEW, device.id, device.labels) === wave,
})

describe('a release that spreads in waves over 150 simulated devices', () => {
  it.each(SEEDS)('proves a good release everywhere, wave after wave (seed %i)', (seed) => {
    const fleet = new RolloutSimulator(scenario(seed))
    fleet.run(2 * HOUR, () => fleet.proven === 150)
    expect(fleet.proven).toBe(150)
    for (const wave of [1, 2]) {
      const before = fleet.devices.filter(inWave(wave - 1).filter).map((device) => device.provenAtMs ?? Infinity)
      const first = Math.min(...fleet.devices.filter(inWave(wave).filter).map((device) => device.provenAtMs ?? 0))
      // 80 % of the wave before had soaked for five minutes.
      const soaked = before.filter((at) => at + 300_000 <= first).length
      expect(soaked * 100).toBeGreaterThanOrEqual(before.length * 80)
    }
  })

  it.each(SEEDS)('stops a release that works nowhere within the first wave (seed %i)', (seed) => {
    const fleet = new RolloutSimulator(scenario(seed, { works: () => false }))
    fleet.run(72 * HOUR)
    const first = fleet.count(inWave(0).filter)
    expect(fleet.tried).toBeGreaterThanOrEqual(3)
    expect(fleet.tried).toBeLessThanOrEqual(first)
    expect(fleet.count((device) => device.state.halted.length > 0)).toBe(150 - fleet.tried)
    expect(fleet.proven).toBe(0)
  })

  it.each(SEEDS)('stops a release that fails on every third device long before all have tried it (seed %i)', (seed) => {
    const fleet = new RolloutSimulator(scenario(seed, { works: (device) => device % 3 !== 0 }))
    fleet.run(72 * HOUR)
    expect(fleet.tried).toBeLessThan(150 * 0.4)
    expect(fleet.count((device) => device.state.halted.length > 0)).toBeGreaterThan(90)
  })

  it('lets the canaries go first, and nobody else while they do not come back', () => {
    const plan = { ...PLAN, canaries: { role: 'test' }, patienceSeconds: 7_200 }
    const labels = (device: number) => (device < 4 ? { role: 'test' } : {})
    const fleet = new RolloutSimulator(
      scenario(7, { plan, labels, network: (device, now) => (device < 4 && now > 60_000 ? -1 : 0) }),
    )
    fleet.run(1.9 * HOUR)
    expect(fleet.tried).toBe(4)
    expect(fleet.devices.slice(0, 4).every((device) => device.tried)).toBe(true)
  })

  it('opens at once what the operator opened', () => {
    const fleet = new RolloutSimulator(scenario(1, { openWaves: 3 }))
    fleet.run(5 * 60_000)
    expect(fleet.proven).toBe(150)
  })

  it('makes a device that is cut off neither jump its wave nor wait for ever', () => {
    const late = new RolloutSimulator(scenario(1)).devices.findIndex(inWave(2).filter)
    const fleet = new RolloutSimulator(scenario(1, { network: (device) => (device === late ? 1 : 0) }))
    fleet.run(23 * HOUR)
    expect(fleet.proven).toBe(149)
    expect(fleet.devices[late]?.tried).toBe(false)
    fleet.run(25 * HOUR)
    expect(fleet.devices[late]?.tried).toBe(true)
  })

  it('keeps the waves on both sides of a cut, and a courier between them opens them', () => {
    // Two halls; one robot changes between them every quarter of an hour.
    const courier = 0
    const hall = (device: number, now: number) => (device === courier ? Math.floor(now / 900_000) % 2 : device % 2)
    const fleet = new RolloutSimulator(scenario(3, { network: hall }))
    fleet.run(6 * HOUR, () => fleet.proven === 150)
    expect(fleet.proven).toBe(150)
  })

  it('carries the news of failures over a healed cut: the other side does not try the release', () => {
    const side = (device: number) => (device % 2 === 0 ? 0 : 1)
    const healedMs = HOUR
    const fleet = new RolloutSimulator(
      scenario(2, {
        works: () => false,
        // The odd side has the release only when the cut heals: it was switched off.
        network: (device, now) => (now >= healedMs ? 0 : side(device) === 0 ? 0 : -1),
      }),
    )
    fleet.run(4 * HOUR)
    expect(fleet.devices.filter((device, at) => side(at) === 1 && device.tried)).toEqual([])
  })
})

describe('reboot leases', () => {
  const leased = (seed: number, change: Partial<RolloutScenario> = {}) =>
    scenario(seed, {
      devices: 30,
      plan: { ...NO_ROLLOUT, rebootsPerCell: 2 },
      labels: (device) => ({ cell: `hall-${device % 3}` }),
      tickMs: 1_000,
      ...change,
    })

  it.each(SEEDS)(
    'never let more than the limit of a cell reboot at once, and let all of them through (seed %i)',
    (seed) => {
      const fleet = new RolloutSimulator(leased(seed))
      fleet.run(2 * HOUR, () => fleet.proven === 30)
      expect(fleet.proven).toBe(30)
      expect(fleet.mostRebootingInCell).toBe(2)
    },
  )

  it('go on when a device dies while it holds one', () => {
    const dead = new Set<number>()
    const fleet = new RolloutSimulator(leased(4, { network: (device) => (dead.has(device) ? -1 : 0) }))
    fleet.run(2 * HOUR, () => {
      const holder = fleet.devices.findIndex(
        ({ labels, state }) => labels['cell'] === 'hall-0' && state.phase === 'armed',
      )
      if (dead.size < 2 && holder >= 0) dead.add(holder)
      return false
    })
    expect(dead.size).toBe(2)
    expect(fleet.proven).toBe(28)
  })
})
