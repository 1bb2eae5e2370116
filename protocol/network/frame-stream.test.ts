import type { Stream } from '@libp2p/interface'
import { describe, expect, it } from 'vitest'
import { FrameStream } from './frame-stream.ts'

describe('a stream of frames', () => {
  it.each(['reset', 'aborted'])('that was %s before anybody listened says that it is closed', async (status) => {
    const stream = Object.assign(new EventTarget(), { status, writeStatus: 'closed' }) as unknown as Stream
    const frames = new FrameStream(stream, { maxFrameBytes: () => 1 })
    const error = await new Promise((resolve) => (frames.onClose = resolve))
    expect(error).toMatchObject({ code: 'UNREACHABLE' })
    expect(frames.closed).toBe(true)
  })
})
