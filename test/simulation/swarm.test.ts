import { describe, expect, it } from 'vitest'
import { SwarmSimulator } from './swarm-simulator.ts'
import { RATE, scenario, STATIONS } from './swarm-table.ts'

/** Ratios that a change of the engine must not make worse; the table in this folder has more of them, and 300 devices. */
describe('the exchange engine in virtual time', () => {
  it.each([1, 2, 3])(
    'brings 256 chunks to 8 devices within 1.1 of the bound, the seed sending 1.15 copies (seed %i)',
    (seed) => {
      const result = new SwarmSimulator(scenario({ seed, opens: 0 })).run()
      expect(result.finished).toBe(8)
      expect(result.lastMs / result.boundMs).toBeLessThan(1.1)
      expect(result.seedCopies).toBeLessThan(1.15)
    },
  )

  it.each([1, 2])('brings 1024 chunks to 60 devices of a sparse mesh within 1.3 of the bound (seed %i)', (seed) => {
    const result = new SwarmSimulator(scenario({ seed, devices: 61, chunks: 1_024 })).run()
    expect(result.finished).toBe(60)
    expect(result.lastMs / result.boundMs).toBeLessThan(1.3)
  })

  it('finishes everywhere although devices are cut off all the time', () => {
    const result = new SwarmSimulator(scenario({ devices: 41, churnEveryMs: 100, awayMs: 1_000 })).run()
    expect(result.finished).toBe(40)
    expect(result.seedCopies).toBeLessThan(3)
  })

  it('is not held up by slow devices more than they hold up themselves', () => {
    const result = new SwarmSimulator(
      scenario({ devices: 31, rate: (device) => (device % 3 === 1 ? RATE / 4 : RATE) }),
    ).run()
    expect(result.lastMs / result.boundMs).toBeLessThan(1.4)
    expect(result.firstMs).toBeLessThan(result.boundMs * 0.6)
  })

  it.each([1, 2])(
    'leaves what a wired device holds to that one, since between stations it takes the air twice (seed %i)',
    (seed) => {
      const result = new SwarmSimulator(scenario({ ...STATIONS, seed })).run()
      expect(result.lastMs / result.boundMs).toBeLessThan(1.1)
      expect(result.seedCopies).toBe(8)
    },
  )

  it('does not wait for a wired device that hardly sends', () => {
    const slow = scenario({ ...STATIONS, rate: (device) => (device === 0 ? RATE / 20 : RATE) })
    const result = new SwarmSimulator(slow).run()
    expect(result.lastMs / result.boundMs).toBeLessThan(1.7)
    expect(result.seedCopies).toBeLessThan(2)
  })

  it('wastes nothing on a shared medium', () => {
    const result = new SwarmSimulator(scenario({ devices: 5, opens: 0, sharedRate: RATE })).run()
    expect(result.lastMs / result.boundMs).toBeLessThan(1.05)
  })
})
