import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { parseExchangeMessage } from '../exchange/messages.ts'
import { BlobRequests } from './blob-requests.ts'

const FILE = Buffer.from('a description')
const HASH = createHash('sha256').update(FILE).digest('hex')

/** Peers that answer a question after so long, with the file, with nothing, or never. */
function peers(behaviour: Readonly<Record<string, { afterMs: number; has: boolean } | 'silent'>>) {
  const requests = new BlobRequests()
  const asked: string[] = []
  const ways = Object.entries(behaviour).map(([peer, how]) => {
    const send = (frame: Uint8Array) => {
      const question = parseExchangeMessage(frame)
      asked.push(peer)
      if (how !== 'silent' && question?.type === 'fetch') {
        setTimeout(
          () => (how.has ? requests.answered(peer, question.sha256, FILE) : requests.refused(peer, question.sha256)),
          how.afterMs,
        )
      }
      return true
    }
    return [peer, { closed: false, send }] as const
  })
  return { asked, get: () => requests.askAll(ways, HASH, 1_000) }
}

describe('a small file', () => {
  it('comes from the first peer that has it', async () => {
    const { asked, get } = peers({ a: { afterMs: 1, has: false }, b: { afterMs: 1, has: true }, c: 'silent' })
    expect(await get()).toEqual(FILE)
    expect(asked).toEqual(['a', 'b'])
  })

  it('is asked first of the peer that had the last one', async () => {
    const { asked, get } = peers({ a: { afterMs: 1, has: false }, b: { afterMs: 1, has: true } })
    await get()
    await get()
    expect(asked).toEqual(['a', 'b', 'b'])
  })

  it('is asked of the next when a peer is silent, which is asked last from then on', async () => {
    const { asked, get } = peers({ mute: 'silent', b: { afterMs: 1, has: true } })
    expect(await get()).toEqual(FILE)
    expect(await get()).toEqual(FILE)
    expect(asked).toEqual(['mute', 'b', 'b'])
  })

  it('is taken from a late peer when nobody else has it', async () => {
    const { get } = peers({ late: { afterMs: 2_000, has: true }, b: { afterMs: 1, has: false } })
    expect(await get()).toEqual(FILE)
  })

  it('is looked for again soon when only silent peers are left, without asking them twice', async () => {
    const { asked, get } = peers({ mute: 'silent', b: { afterMs: 1, has: false } })
    const startedMs = performance.now()
    expect(await get()).toBeUndefined()
    expect(performance.now() - startedMs).toBeLessThan(10_000)
    expect(await get()).toBeUndefined()
    expect(asked).toEqual(['mute', 'b', 'b'])
  })

  it('is nowhere when all say so', async () => {
    expect(await peers({ a: { afterMs: 1, has: false }, b: { afterMs: 2, has: false } }).get()).toBeUndefined()
  })
})
