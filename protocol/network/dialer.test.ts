import { describe, expect, it } from 'vitest'
import { Dialer, NEIGHBOURS } from './dialer.ts'

describe('the neighbours of a device', () => {
  it('come on top when somebody has what nobody here has', async () => {
    const dialled: string[] = []
    let nowMs = 0
    const dialer = new Dialer({
      selfId: 'a',
      dial: (id) => (dialled.push(id), Promise.resolve()),
      isConnected: () => false,
      neighbours: () => NEIGHBOURS.most,
      isPreferred: () => false,
      random: () => 0.5,
      nowMs: () => nowMs,
    })
    for (const id of ['b', 'c']) dialer.learn(id, ['/ip4/10.0.0.1/tcp/1'], true)
    dialer.tick()
    expect(dialled).toEqual([])
    dialer.seek('c')
    nowMs += 1_000
    dialer.tick()
    expect(dialled).toEqual(['c'])
  })

  it('are of the own board for one half, and of any for the other', () => {
    const dialled: string[] = []
    const dialer = new Dialer({
      selfId: 'a',
      dial: (id) => (dialled.push(id), Promise.resolve()),
      isConnected: () => false,
      neighbours: () => 2,
      isPreferred: (id) => id.startsWith('same'),
      random: () => 0.5,
      nowMs: () => 0,
    })
    for (let at = 0; at < 8; at += 1) dialer.learn(`other-${at}`, ['/ip4/10.0.0.1/tcp/1'], true)
    for (let at = 0; at < 8; at += 1) dialer.learn(`same-${at}`, ['/ip4/10.0.0.1/tcp/1'], true)
    dialer.tick()
    expect(dialled).toHaveLength(8)
    expect(dialled.filter((id) => id.startsWith('same'))).toHaveLength(NEIGHBOURS.wanted / 2)
  })

  it('known by hearsay come before those that failed again and again, and after those that were heard just now', () => {
    const dialled: string[] = []
    let nowMs = 0
    let neighbours = 0
    const dialer = new Dialer({
      selfId: 'a',
      dial: (id) => (dialled.push(id), id.startsWith('dead') ? Promise.reject(new Error('gone')) : Promise.resolve()),
      isConnected: () => false,
      neighbours: () => neighbours,
      isPreferred: () => false,
      random: () => 0.5,
      nowMs: () => nowMs,
    })
    dialer.learn('dead', ['/ip4/10.0.0.1/tcp/1'], true)
    dialer.tick()
    expect(dialled.splice(0)).toEqual(['dead'])
    return new Promise((resolve) => setImmediate(resolve)).then(() => {
      nowMs += 300_000
      neighbours = NEIGHBOURS.wanted - 1
      dialer.learn('hearsay', ['/ip4/10.0.0.1/tcp/1'], false)
      nowMs += 5_000
      dialer.tick()
      expect(dialled[0]).toBe('hearsay')
    })
  })
})
