import { mkdtempSync, rmSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { FleetNode } from '../../protocol/network/fleet-node.ts'
import { identityFromSeed } from '../../protocol/network/identity.ts'
import { enrol } from '../release/create-device.ts'
import { createDevKeys, type FleetKeys } from '../release/fleet-keys.ts'
import { composeFleet } from '../release/init-fleet.ts'
import { openKey } from '../release/key-file.ts'
import { Repository } from '../release/repository.ts'
import { publishStaged, signStaged, stage, stagingDirectory } from '../release/staging.ts'
import { OperatorSession, operatorIdentity } from './operator-session.ts'

const PASS = 'correct horse'
const NOW = Date.UTC(2026, 10, 24)

describe('an operator at a device', () => {
  const root = mkdtempSync(join(tmpdir(), 'flotilla-operator-'))
  let repository: Repository
  let keys: FleetKeys
  let session: OperatorSession
  const ca = () => {
    const [key] = keys.ca
    if (key === undefined) throw new Error('no key')
    return openKey(key.path, PASS)
  }

  beforeAll(async () => {
    repository = Repository.create(join(root, 'repo'), 'demo')
    keys = createDevKeys(join(root, 'keys'), PASS)
    const staging = stagingDirectory(repository)
    stage(staging, composeFleet(repository, keys, NOW))
    const open = (list: readonly { readonly path: string }[]) => list.map((key) => openKey(key.path, PASS))
    signStaged(repository, staging, open([...keys.root, ...keys.manager, ...keys.fleet]))
    publishStaged(repository, staging, { publishers: open(keys.publisher), nowMs: NOW, minRoot: undefined })
    session = new OperatorSession({
      repository,
      ...operatorIdentity(repository, ca),
      releases: [],
      onRefused: () => {},
    })
    await session.start()
  })
  afterAll(async () => {
    await session?.stop()
    rmSync(root, { recursive: true })
  })

  async function startDevice(port: number): Promise<FleetNode> {
    const { seed, certificate } = enrol(repository, ca(), { name: 'robot-3', board: 'pi-4', capabilities: ['sync'] })
    return FleetNode.start({
      identity: identityFromSeed(seed),
      certificate,
      name: 'robot-3',
      fleet: 'demo',
      policy: () => repository.policy(),
      trust: () => ({ root: 1, timestamp: 1 }),
      refreshTrust: () => Promise.resolve(),
      port,
      listenHosts: ['127.0.0.1'],
      interfaces: [],
      discovery: false,
      staticPeers: [],
      remembered: [],
      events: { member: () => {}, memberGone: () => {}, refused: () => {}, gossip: () => 'ignore' },
    })
  }

  it('waits for one that has just answered and is being started again, and for no other', async () => {
    const closed = createServer()
    await new Promise<void>((resolve) => closed.listen(0, '127.0.0.1', resolve))
    const { port } = closed.address() as AddressInfo
    await new Promise((resolve) => closed.close(resolve))
    const device = { name: 'robot-3', addresses: [`/ip4/127.0.0.1/tcp/${port}`] }
    let isDecided = false
    await expect(session.connect({ ...device, hasAnswered: false })).rejects.toMatchObject({ code: 'UNREACHABLE' })
    const connecting = session.connect({ ...device, hasAnswered: true }).finally(() => (isDecided = true))
    await new Promise((resolve) => setTimeout(resolve, 1_000))
    expect(isDecided).toBe(false)
    const node = await startDevice(port)
    try {
      expect((await connecting).certificate.name).toBe('robot-3')
    } finally {
      await node.stop()
    }
  })
})
