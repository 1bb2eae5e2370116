import { randomBytes } from 'node:crypto'
import type { Stream } from '@libp2p/interface'
import { describe, expect, it } from 'vitest'
import { FlotillaError } from '../errors.ts'
import { PieceAsker, type PieceQuestion, parseQuestion, type PieceServer, servePieces } from './backup-exchange.ts'

/** Two ends of one stream, as libp2p shows it, without a network. */
class End extends EventTarget {
  other: End | undefined
  writeStatus = 'writable'
  status = 'open'
  writableNeedsDrain = false

  send(data: Uint8Array): boolean {
    const copy = Uint8Array.from(data)
    queueMicrotask(() => this.other?.dispatchEvent(Object.assign(new Event('message'), { data: copy })))
    return true
  }

  async close(): Promise<void> {
    this.writeStatus = 'closed'
    queueMicrotask(() => this.other?.dispatchEvent(new Event('remoteCloseWrite')))
  }

  abort(error: Error): void {
    for (const [end, status] of [
      [this, 'aborted'],
      [this.other, 'reset'],
    ] as const) {
      if (end === undefined || end.status !== 'open') continue
      end.status = status
      end.writeStatus = 'closed'
      queueMicrotask(() => end.dispatchEvent(Object.assign(new Event('close'), { error })))
    }
  }
}

function pair(): readonly [Stream, Stream] {
  const [a, b] = [new End(), new End()]
  a.other = b
  b.other = a
  return [a as unknown as Stream, b as unknown as Stream]
}

const FILE = {
  repository: '12D3KooWGz9dLrLxV6NuKyNBpkz2hSXJ7L2RnpPBYuGVFgFNi3kC.1',
  kind: 'data' as const,
  sha256: 'a'.repeat(64),
}
const CONTENT = randomBytes(2_500_000)

function serve(more: Partial<PieceServer> = {}) {
  const [mine, theirs] = pair()
  const spent: number[] = []
  const ended = servePieces(theirs, 'peer', {
    read: async ({ sha256, offset, lengthBytes }) =>
      sha256 === FILE.sha256 ? CONTENT.subarray(offset, offset + lengthBytes) : undefined,
    spend: async (_, bytes) => void spent.push(bytes),
    ...more,
  })
  return { asker: new PieceAsker(mine), mine, spent, ended }
}

async function all(pieces: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = []
  for await (const piece of pieces) parts.push(piece)
  return Buffer.concat(parts)
}

describe('pieces of a backup repository', () => {
  it('come whole and in order, from any offset, out of the budget', async () => {
    const { asker, spent, ended } = serve()
    expect(await all(asker.pieces(FILE, 0, CONTENT.length))).toEqual(CONTENT)
    expect(spent.reduce((sum, bytes) => sum + bytes, 0)).toBe(CONTENT.length)
    expect(Math.max(...spent)).toBe(262_144)
    expect(await all(asker.pieces(FILE, 2_000_000, CONTENT.length))).toEqual(CONTENT.subarray(2_000_000))
    await asker.close()
    await ended // at once, not when its time is over
  })

  it('are missing when the peer lacks them, or has fewer bytes than it should', async () => {
    const other = { ...FILE, sha256: 'b'.repeat(64) }
    await expect(all(serve().asker.pieces(other, 0, 5))).rejects.toMatchObject({ code: 'MISSING' })
    await expect(all(serve().asker.pieces(FILE, 0, CONTENT.length + 1))).rejects.toMatchObject({ code: 'MISSING' })
  })

  it('are proven by who has them alone', async () => {
    const question: PieceQuestion = { ...FILE, offset: 100, lengthBytes: 1_000 }
    const bytes = CONTENT.subarray(100, 1_100)
    const { asker } = serve()
    expect(await asker.prove(question, bytes)).toBe('held')
    expect(await asker.prove(question, randomBytes(1_000))).toBe('wrong')
    expect(await asker.prove({ ...question, sha256: 'b'.repeat(64) }, bytes)).toBe('gone')
    const short = serve({ read: async () => bytes.subarray(1) }).asker
    expect(await short.prove(question, bytes)).toBe('wrong')
  })

  it('fail at once when the peer refuses the stream or ends it', async () => {
    const [mine, theirs] = pair()
    theirs.abort(new Error('BUSY'))
    await expect(new PieceAsker(mine).head(FILE.repository)).rejects.toMatchObject({ code: 'UNREACHABLE' })
    const [ours, others] = pair()
    const waiting = new PieceAsker(ours).head(FILE.repository)
    await others.close()
    await expect(waiting).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })

  it('are refused for questions that no honest peer asks', () => {
    const good = { ...FILE, offset: 0, lengthBytes: 5 }
    expect(parseQuestion(Buffer.from(JSON.stringify(good))).question).toEqual(good)
    for (const bad of [
      { repository: '../../etc' },
      { kind: 'locks' },
      { sha256: '../password' },
      { lengthBytes: 2_000_000 },
      { offset: -1 },
      { nonce: 'x' },
    ])
      expect(() => parseQuestion(Buffer.from(JSON.stringify({ ...good, ...bad })))).toThrow(FlotillaError)
  })
})
