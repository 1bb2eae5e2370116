import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parseAgentConfig } from '../config.ts'
import { parseMetered, readTrafficFile } from './traffic-guard.ts'
import { judgeTraffic, type TrafficConditions } from './traffic-policy.ts'

const rules = (yaml = '') => parseAgentConfig(`hardware: x\n${yaml}`, 'agent.yaml').traffic
const now = (change: Partial<TrafficConditions> = {}): TrafficConditions => ({
  nowMs: 0,
  wishes: [],
  wallClock: new Date(2026, 10, 24, 12, 0),
  today: new Map(),
  metered: false,
  yielded: { rate: Infinity, queueMs: 0 },
  ...change,
})

describe('traffic limits', () => {
  it('are none by default, but on a metered connection', () => {
    expect(judgeTraffic(rules(), now())).toMatchObject({ sendRate: Infinity, receiveRate: Infinity, reasons: [] })
    expect(judgeTraffic(rules(), now({ metered: true }))).toMatchObject({
      sendRate: 0,
      reasons: ['nothing: metered connection'],
    })
  })

  it('are the least of all that apply, each with its reason', () => {
    const yaml = 'traffic: {sendKiB: 500, quietHours: ["11:00-13:00"], quietKiB: 100, dailyMiB: 10}'
    const verdict = judgeTraffic(
      rules(yaml),
      now({ wishes: [{ reason: 'teleoperation', rate: 20_480, untilMs: 1 }], today: new Map([['eth0', 1]]) }),
    )
    expect(verdict).toMatchObject({
      sendRate: 20_480,
      receiveRate: 20_480,
      reasons: ['send 500 KiB/s: agent.yaml', '20 KiB/s: teleoperation', '100 KiB/s: quiet hours'],
    })
    expect(judgeTraffic(rules(yaml), now({ wallClock: new Date(2026, 10, 24, 14, 0) })).receiveRate).toBe(Infinity)
    expect(judgeTraffic(rules(yaml), now({ today: new Map([['eth0', 10 * 2 ** 20]]) }))).toMatchObject({
      sendRate: 0,
      receiveRate: 0,
    })
  })

  it('of a day may be for single interfaces: only that one is closed', () => {
    const verdict = judgeTraffic(
      rules('traffic: {dailyMiB: {wwan0: 10, wlan0: 20}}'),
      now({
        today: new Map([
          ['wwan0', 10 * 2 ** 20],
          ['wlan0', 10 * 2 ** 20],
        ]),
      }),
    )
    expect(verdict).toMatchObject({ sendRate: Infinity, closedLinks: new Set(['wwan0']) })
    expect(verdict.reasons).toEqual(['nothing over wwan0: its daily budget is used up'])
    expect(() => rules('traffic: {dailyMiB: {wwan0: lots}}')).toThrow(/traffic.dailyMiB.wwan0/)
  })

  it('follow round trips, and say by how much they rose', () => {
    expect(judgeTraffic(rules(), now({ yielded: { rate: 204_800, queueMs: 234.5 } }))).toMatchObject({
      sendRate: 204_800,
      receiveRate: 204_800,
      reasons: ['200 KiB/s: round trips rose by 235 ms'],
    })
  })

  it('forget a wish that has run out', () => {
    expect(judgeTraffic(rules(), now({ nowMs: 2, wishes: [{ reason: 'x', rate: 0, untilMs: 1 }] })).reasons).toEqual([])
  })

  it('refuse settings that are not known, with the key', () => {
    expect(() => rules('traffic: {sendKib: 5}')).toThrow(/traffic.sendKib: wanted no such key/)
    expect(() => rules('traffic: {quietHours: ["late"]}')).toThrow(/traffic.quietHours: late/)
  })

  it('come from the file that the robot writes; garbage in it stops everything rather than nothing', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'flotilla-traffic-'))
    const file = join(directory, 'traffic')
    expect(await readTrafficFile(file)).toBeUndefined()
    writeFileSync(file, '200\ndriving\n')
    expect(await readTrafficFile(file)).toMatchObject({ rate: 204_800, reason: 'driving' })
    writeFileSync(file, 'fast')
    expect(await readTrafficFile(file)).toMatchObject({ rate: 0, reason: 'limited by file' })
    rmSync(directory, { recursive: true })
  })

  it('take NetworkManager at its word', () => {
    expect(['u 1\n', 'u 3\n', 'u 0\n', 'u 2\n', 'u 4\n', ''].map(parseMetered)).toEqual([
      true,
      true,
      false,
      false,
      false,
      false,
    ])
  })
})
