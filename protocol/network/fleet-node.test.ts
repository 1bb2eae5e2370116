import { randomBytes } from 'node:crypto'
import { type AddressInfo, connect, createServer } from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import { signCertificate } from '../membership/certificate.ts'
import { BLANK_POLICY } from '../membership/blank-policy.ts'
import type { FleetPolicy } from '../membership/fleet-policy.ts'
import { FleetNode, TOPICS } from './fleet-node.ts'
import { FrameStream } from './frame-stream.ts'
import { type Identity, identityFromSeed } from './identity.ts'

const ca = identityFromSeed(new Uint8Array(32).fill(9))
const ECHO = '/test/echo/1'

type Started = {
  readonly node: FleetNode
  readonly heard: string[]
  readonly refused: string[]
  readonly address: string
}
const running: FleetNode[] = []

afterEach(async () => {
  for (const node of running.splice(0)) await node.stop()
})

async function start(
  staticPeers: readonly string[],
  more: { identity?: Identity; port?: number; signer?: Identity; policy?: () => FleetPolicy } = {},
): Promise<Started> {
  const identity = more.identity ?? identityFromSeed(randomBytes(32))
  const signer = more.signer ?? ca
  const card = {
    fleet: 'demo',
    device: identity.id,
    name: 'n',
    board: 'b',
    capabilities: ['sync' as const],
    serial: 1,
    epoch: 1,
  }
  const heard: string[] = []
  const refused: string[] = []
  const policy: FleetPolicy = { ...BLANK_POLICY, caKeys: [ca.publicHex] }
  const node = await FleetNode.start({
    identity,
    certificate: signCertificate(card, signer.publicHex, signer.sign),
    name: 'n',
    fleet: 'demo',
    policy: more.policy ?? (() => policy),
    trust: () => ({ root: 1, timestamp: 1 }),
    refreshTrust: () => Promise.resolve(),
    port: more.port ?? 0,
    listenHosts: ['127.0.0.1'],
    interfaces: [],
    discovery: false,
    staticPeers,
    remembered: [],
    events: {
      member: () => {},
      memberGone: () => {},
      refused: (_id, code) => refused.push(code),
      gossip: (_topic, data) => {
        heard.push(Buffer.from(data).toString())
        return 'accept'
      },
    },
  })
  running.push(node)
  return { node, heard, refused, address: `/ip4/127.0.0.1/tcp/${node.port(4)}` }
}

async function until(what: string, check: () => boolean, timeoutMs = 30_000): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!check()) {
    if (performance.now() > deadline) throw new Error(`not ${what} within ${timeoutMs / 1_000} s`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

describe('a fleet node', () => {
  it('gossips to everybody although more than ten nodes share one address (colocation score, inbound limits)', async () => {
    const hub = await start([])
    const others: Started[] = []
    for (let at = 0; at < 13; at += 1) others.push(await start([hub.address]))
    await until('meshed', () => hub.node.members().length === 13)
    let round = 0
    await until('heard by all', () => {
      round += 1
      if (round % 10 === 1) void others[0]?.node.publish(TOPICS.records, Buffer.from(`news ${round}`))
      return others.slice(1).every((other) => other.heard.length > 0)
    })
  })

  it('keeps one connection when both sides know each other', async () => {
    const a = await start([])
    const b = await start([])
    a.node.learn({ id: b.node.id, addresses: [b.address] })
    b.node.learn({ id: a.node.id, addresses: [a.address] })
    await until('connected', () => a.node.isMember(b.node.id) && b.node.isMember(a.node.id))
    await new Promise((resolve) => setTimeout(resolve, 4_000)) // the larger id would have dialled by now
    expect(a.node.connectionCount(b.node.id)).toBe(1)
    expect(b.node.connectionCount(a.node.id)).toBe(1)
  })

  it('tells whoever reaches for it whether it was refused or the other side went away in the middle', async () => {
    let cut = () => {}
    const member = await start([], {
      policy: () => {
        cut()
        return { ...BLANK_POLICY, caKeys: [ca.publicHex] }
      },
    })
    const path = createServer((near) => {
      const far = connect(member.node.port(4), '127.0.0.1')
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const)
        from.on('error', () => {}).pipe(to)
      // It asks for its policy when it has read the hello, and before it answers.
      cut = () => {
        near.destroy()
        far.destroy()
      }
    })
    await new Promise<void>((resolve) => path.listen(0, '127.0.0.1', resolve))
    const { port } = path.address() as AddressInfo
    const caller = await start([])
    await expect(caller.node.reach(`/ip4/127.0.0.1/tcp/${port}`)).rejects.toMatchObject({ code: 'UNREACHABLE' })
    expect([...caller.refused, ...member.refused]).toEqual([])
    path.close()
    cut = () => {}
    const stranger = await start([], { signer: identityFromSeed(randomBytes(32)) })
    await expect(stranger.node.reach(member.address)).rejects.toMatchObject({ code: 'NOT_A_MEMBER' })
    expect((await caller.node.reach(member.address)).id).toBe(member.node.id)
  })

  it('shows a stranger no protocol, and tells it the code', async () => {
    const member = await start([])
    await member.node.handle(ECHO, () => {})
    const stranger = await start([member.address], { signer: identityFromSeed(randomBytes(32)) })
    await until('refused', () => member.refused.includes('NOT_A_MEMBER') || stranger.refused.includes('NOT_A_MEMBER'))
    expect(member.node.members()).toEqual([])
    await expect(stranger.node.open(member.node.id, ECHO)).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })

  it('finds a peer again that was away and came back under the same address', async () => {
    const identity = identityFromSeed(randomBytes(32))
    const a = await start([])
    const b = await start([a.address], { identity })
    await until('connected', () => a.node.isMember(b.node.id))
    const port = b.node.port(4)
    await b.node.stop()
    running.splice(running.indexOf(b.node), 1)
    await until('noticed', () => !a.node.isMember(identity.id))
    const again = await start([], { identity, port })
    await until('connected again', () => again.node.isMember(a.node.id), 40_000)
  })

  it('drops members at once when the policy revokes them', async () => {
    const policy: { now: FleetPolicy } = { now: { ...BLANK_POLICY, caKeys: [ca.publicHex] } }
    const a = await start([], { policy: () => policy.now })
    const b = await start([a.address])
    await until('connected', () => a.node.isMember(b.node.id))
    policy.now = { ...policy.now, revoked: [b.node.id] }
    a.node.recheck()
    expect(a.node.members()).toEqual([])
    expect(a.refused).toContain('REVOKED')
  })
})

describe('frames over a stream', () => {
  it('arrive whole and in order, with a sender that waits for every drain (onDrain works only once)', async () => {
    const a = await start([])
    let received = 0
    let wrong = 0
    await a.node.handle(ECHO, (stream) => {
      const frames = new FrameStream(stream, { maxFrameBytes: () => 300_000 })
      frames.onFrame = (frame) => {
        const number = Buffer.from(frame).readUInt32LE(1)
        if (number !== received || frame.length !== 200_000) wrong += 1
        received += 1
      }
    })
    const b = await start([a.address])
    await until('connected', () => b.node.isMember(a.node.id))
    const frames = new FrameStream(await b.node.open(a.node.id, ECHO), { maxFrameBytes: () => 1_000 })
    let waits = 0
    for (let number = 0; number < 250; number += 1) {
      const frame = Buffer.alloc(200_000)
      frame.writeUInt32LE(number, 1)
      if (frames.send(frame)) continue
      waits += 1
      // Whoever does not wait here has 50 MB in its queue.
      await frames.drained()
    }
    await until('received', () => received === 250)
    expect(wrong).toBe(0)
    expect(waits).toBeGreaterThan(10)
  })

  it('end the stream when one is longer than its type may be', async () => {
    const a = await start([])
    let error: Error | undefined
    await a.node.handle(ECHO, (stream) => {
      const frames = new FrameStream(stream, { maxFrameBytes: (type) => (type === 7 ? 10 : 1_000) })
      frames.onFrame = () => {}
      frames.onClose = (cause) => {
        error = cause
      }
    })
    const b = await start([a.address])
    await until('connected', () => b.node.isMember(a.node.id))
    const frames = new FrameStream(await b.node.open(a.node.id, ECHO), { maxFrameBytes: () => 1_000 })
    frames.send(Buffer.alloc(11, 7))
    await until('aborted', () => error !== undefined)
    expect(error?.message).toContain('at most 10')
  })
})
