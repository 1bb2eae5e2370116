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

  it('are of the own board for one half', () => {
    const dialled: string[] = []
    const dialer = new Dialer({
      selfId: 'a',
      dial: (id) => (dialled.push(id), Promise.resolve()),
      isConnected: () => false,
      neighbours: () => 8,
      isPreferred: (id) => id.startsWith('same'),
      random: () => 0.5,
      nowMs: () => 0,
    })
    for (const id of ['x1', 'x2', 'x3', 'same-1', 'same-2']) dialer.learn(id, ['/ip4/10.0.0.1/tcp/1'], true)
    dialer.tick()
    expect(dialled.sort()).toEqual(['same-1', 'same-2'])
  })
})
