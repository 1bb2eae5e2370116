import { randomBytes } from 'node:crypto'
import { connect as connectPlain } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { afterEach, describe, expect, it } from 'vitest'
import { type BulkChannel, BulkListener, type BulkSession, dialBulk, MAX_QUESTION_BYTES } from './bulk-channel.ts'

const listeners: BulkListener[] = []
afterEach(() => {
  for (const listener of listeners.splice(0)) listener.close()
})
const listen = async () => {
  const listener = await BulkListener.start(['127.0.0.1'], 0)
  listeners.push(listener)
  return listener
}
async function pair(maxFrameBytes = 300_000) {
  const listener = await listen()
  let session: BulkSession | undefined
  const accepted = new Promise<BulkChannel>((resolve) => {
    session = listener.offer(resolve)
  })
  if (session === undefined) throw new Error('no session')
  const receiving = await dialBulk('127.0.0.1', session, maxFrameBytes)
  return { sending: await accepted, receiving, session }
}
const ended = (channel: BulkChannel) => new Promise<void>((resolve) => (channel.onClose = resolve))

describe('a bulk channel', () => {
  it('carries frames of every length whole and in order, and waits when the receiver is slow', async () => {
    const { sending, receiving } = await pair()
    const got: Uint8Array[] = []
    const sent = Array.from({ length: 200 }, (_, at) => randomBytes(1 + ((at * 7_919) % 262_000)))
    const all = new Promise<void>((resolve) => {
      receiving.onFrame = (frame) => {
        got.push(frame)
        if (got.length === sent.length) resolve()
      }
    })
    for (const payload of sent) if (!sending.send(Buffer.from('head'), payload)) await sending.drained()
    await all
    got.forEach((frame, at) =>
      expect(Buffer.compare(frame, Buffer.concat([Buffer.from('head'), sent[at] ?? Buffer.alloc(0)]))).toBe(0),
    )
    sending.close()
    await ended(receiving)
  })

  it('ends when a frame is longer than allowed, before anything is reserved for it', async () => {
    const { sending, receiving } = await pair(1_000)
    const frames: Uint8Array[] = []
    receiving.onFrame = (frame) => frames.push(frame)
    sending.send(Buffer.alloc(0), Buffer.alloc(1_001))
    await ended(receiving)
    expect(frames).toEqual([])
  })

  it('carries questions the other way, and ends when one is too long', async () => {
    const { sending, receiving } = await pair()
    const question = new Promise<Uint8Array>((resolve) => (sending.onFrame = resolve))
    receiving.send(Buffer.from('ask'), new Uint8Array())
    expect(Buffer.from(await question).toString()).toBe('ask')
    receiving.send(new Uint8Array(MAX_QUESTION_BYTES), Buffer.from('b'))
    await ended(sending)
  })

  it('takes a session once, with its key, and no stranger', async () => {
    const { session, receiving } = await pair()
    await expect(dialBulk('127.0.0.1', session, 1_000), 'used before').rejects.toMatchObject({ code: 'UNREACHABLE' })
    const listener = await listen()
    const fresh = listener.offer(() => expect.unreachable())
    await expect(dialBulk('127.0.0.1', { ...fresh, key: randomBytes(32) }, 1_000)).rejects.toMatchObject({
      code: 'UNREACHABLE',
    })
    const unknown = { ...listener.offer(() => expect.unreachable()), id: randomBytes(16) }
    await expect(dialBulk('127.0.0.1', unknown, 1_000)).rejects.toMatchObject({ code: 'UNREACHABLE' })
    const withoutKey = connectTls({ host: '127.0.0.1', port: fresh.port, rejectUnauthorized: false })
    await new Promise((resolve) => withoutKey.once('error', resolve))
    receiving.close()
  })

  it('survives bytes that are no handshake', async () => {
    const listener = await listen()
    const { port } = listener.offer(() => {})
    const stranger = connectPlain(port, '127.0.0.1')
    stranger.on('error', () => {})
    const closed = new Promise((resolve) => stranger.once('close', resolve))
    stranger.write(randomBytes(10_000))
    await closed
    const accepted = new Promise<BulkChannel>((resolve) => {
      void dialBulk('127.0.0.1', listener.offer(resolve), 1_000)
    })
    expect((await accepted).closed).toBe(false)
  })
})
