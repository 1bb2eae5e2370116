import { describe, expect, it } from 'vitest'
import { parseAgentConfig } from './config.ts'
import { judgeGate, parseWindow } from './control/reboot-gate.ts'
import { judgeBaseline, judgeHealth } from './health/judge-health.ts'

describe('agent.yaml', () => {
  it('has defaults for everything but the hardware', () => {
    expect(parseAgentConfig('hardware: pi-4', 'agent.yaml')).toMatchObject({
      channel: 'stable',
      port: 4848,
      carryBytes: 2 ** 30,
      builtIn: { peers: 'must' },
    })
  })

  it('refuses unknown keys with file, line and column, and wrong values with the key', () => {
    const message = (text: string) => {
      try {
        parseAgentConfig(text, 'agent.yaml')
      } catch (error) {
        return `${(error as { code: string }).code} ${(error as Error).message}`
      }
      return ''
    }
    expect(message('hardware: x\nchanel: beta\n')).toContain('BAD_CONFIG agent.yaml:2:1: no such key: chanel')
    expect(message('hardware: x\nlabels: *nowhere\n'), 'found by fuzzing').toContain('BAD_CONFIG agent.yaml: ')
    expect(message(`hardware: ${'['.repeat(70_000)}`)).toContain('at most 65536 are read')
    expect(message('hardware: x\nport: 70000\n')).toContain('port: wanted a whole number')
    expect(message('hardware: x\nmaintenance: ["25:00-01:00"]')).toContain('25:00-01:00')
    expect(message('hardware: x\nhealth: {peer: must}')).toContain('health.peer')
    expect(message('a: [')).toContain('BAD_CONFIG')
  })
})

describe('the reboot gate', () => {
  const night = [parseWindow('22:00-06:00')].filter((window) => window !== undefined)
  const at = (hour: number) => new Date(2026, 10, 24, hour)

  it('opens inside a window that spans midnight, and ignores windows while the clock is behind the signed time', () => {
    expect(judgeGate([], 0, night, at(23), 0).open).toBe(true)
    expect(judgeGate([], 0, night, at(5), 0).open).toBe(true)
    expect(judgeGate([], 0, night, at(12), 0)).toMatchObject({ open: false })
    expect(judgeGate([], 0, night, new Date(0), Date.UTC(2026, 0, 1)).open).toBe(true)
  })

  it('stays closed while a hold lasts, with its reason', () => {
    expect(judgeGate([{ reason: 'docking', untilMs: 10 }], 5, [], at(1), 0)).toEqual({ open: false, reason: 'docking' })
    expect(judgeGate([{ reason: 'docking', untilMs: 10 }], 11, [], at(1), 0).open).toBe(true)
  })
})

describe('health', () => {
  const rules = { peers: 'must', engine: 'must', containers: 'should' } as const
  const check = { name: 'x', must: true, passed: false, reason: 'exit 1', log: 'tail' }

  it('compares with what worked before the update and asks nothing of the internet', () => {
    const nothing = { peers: [], engine: false, containers: [] }
    expect(judgeBaseline(nothing, { peers: [], engine: undefined, containers: undefined }, rules)).toEqual([])
    const before = { peers: ['p'], engine: true, containers: ['nav', 'arm'] }
    const results = judgeBaseline(before, { peers: ['other'], engine: false, containers: ['nav'] }, rules)
    expect(results.map((result) => [result.name, result.must, result.passed])).toEqual([
      ['built-in/peers', true, true],
      ['built-in/engine', true, false],
      ['built-in/containers', false, false],
    ])
  })

  it('waits until the deadline, then names what failed with the log', () => {
    expect(judgeHealth([check], 1, 10).verdict).toBe('wait')
    expect(judgeHealth([check], 10, 10)).toEqual({ verdict: 'unhealthy', reason: 'x: exit 1', log: 'tail' })
    expect(judgeHealth([{ ...check, must: false }], 10, 10)).toEqual({ verdict: 'healthy', warnings: ['x: exit 1'] })
  })
})
