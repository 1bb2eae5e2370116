import type { Connection } from '@libp2p/interface'
import { describe, expect, it } from 'vitest'
import { Admissions } from './admissions.ts'

const connection = (peer: string, status = 'open') =>
  ({ remotePeer: { toString: () => peer }, status }) as unknown as Connection

describe('waiting for a hello', () => {
  it('is for one connection: that another of the peer was admitted says nothing', async () => {
    const admissions = new Admissions(200)
    const [shown, silent] = [connection('a'), connection('a')]
    const [first, second] = [admissions.waitForConnection(shown), admissions.waitForConnection(silent)]
    admissions.admit(shown)
    admissions.decided('a')
    expect(await first).toBe(true)
    expect(await second).toBe(false) // after the time
    expect(await admissions.waitForConnection(shown)).toBe(true)
  })

  it('ends at once when the connection closes, or is closed already', async () => {
    const admissions = new Admissions(60_000)
    const lost = { ...connection('a') }
    const waiting = admissions.waitForConnection(lost)
    Object.assign(lost, { status: 'closed' })
    admissions.decided('a')
    expect(await waiting).toBe(false)
    expect(await admissions.waitForConnection(connection('a', 'closed'))).toBe(false)
  })

  it('for a peer ends with any decision about it', async () => {
    const admissions = new Admissions(60_000)
    const members = new Set<string>()
    const [joined, refused] = [
      admissions.waitForPeer('a', () => members.has('a')),
      admissions.waitForPeer('b', () => members.has('b')),
    ]
    members.add('a')
    admissions.decided('a')
    admissions.decided('b')
    expect([await joined, await refused]).toEqual([true, false])
  })

  it('is not for more than 64 at once', async () => {
    const admissions = new Admissions(60_000)
    const all = Array.from({ length: 70 }, () => admissions.waitForConnection(connection('a')))
    expect(await Promise.all(all.slice(64))).toEqual(Array(6).fill(false))
  })
})
