import { describe, expect, it } from 'vitest'
import type { BackupHead } from '../../protocol/backup/backup-head.ts'
import { BLANK_HEAD } from '../../protocol/backup/blank-head.ts'
import { seal, sealPairOf, unseal } from '../../protocol/backup/seal.ts'
import { BLANK_RECORD } from '../../protocol/gossip/blank-record.ts'
import { BLANK_POLICY } from '../../protocol/membership/blank-policy.ts'
import { encodeFleetPolicy, type FleetPolicy, parseFleetPolicy } from '../../protocol/membership/fleet-policy.ts'
import { findRepository, ownedHead, planAdoption } from './plan-adoption.ts'

const OLD = '12D3KooWGz9dLrLxV6NuKyNBpkz2hSXJ7L2RnpPBYuGVFgFNi3kC'
const NEW = '12D3KooWKf1jwjDptBb4WmmyvrH9Qa5iKf4wjK3FG21A1rQiy7CD'
const THIEF = '12D3KooWMCMTH2jUc8Wy1aNaAvtJwqQeLVwrM5uC7QRr7P3g2UsD'
const recovery = sealPairOf(Buffer.alloc(32, 1))
const device = sealPairOf(Buffer.alloc(32, 2))
const policy: FleetPolicy = { ...BLANK_POLICY, recoveryKey: recovery.publicHex }
const head: BackupHead = { ...BLANK_HEAD, repository: `${OLD}.1`, sealed: seal('password', recovery.publicHex) }
const holder = { offeredBytes: 0, freeBytes: 0, mostBytes: 0, replicas: [], sealKey: device.publicHex }
const record = (id: string, more: object = {}) => ({ ...BLANK_RECORD, device: id, seq: 1, name: id.slice(-4), ...more })
const old = record(OLD, { name: 'robot-3', backup: head })
const fresh = record(NEW, { name: 'robot-9', holder })

describe('an adoption', () => {
  it('gives the password to the new device, under the next epoch, in a policy that devices read', () => {
    const next = planAdoption(policy, { head, device: OLD }, fresh, recovery.secret)
    const [claim] = parseFleetPolicy(encodeFleetPolicy(next)).claims
    expect(claim).toMatchObject({ repository: `${OLD}.1`, to: NEW, epoch: 1, from: OLD, fromEpoch: 0 })
    expect(unseal(claim?.sealed ?? '', device.secret)).toBe('password')
    const again = planAdoption(next, { head: { ...head, epoch: 1 }, device: NEW }, fresh, recovery.secret)
    expect(again.claims).toHaveLength(1)
    expect(again.claims[0]).toMatchObject({ epoch: 2, from: NEW, fromEpoch: 1 })
  })

  it('believes nobody but the owner: another could have the operator sign for a repository of his own', () => {
    const forged = { ...head, epoch: 1, seq: 99, sealed: seal('mine', recovery.publicHex) }
    const thief = record(THIEF, { backup: forged })
    expect(ownedHead([thief, old], head.repository, policy)).toEqual({ head, device: OLD })
    expect(ownedHead([thief], head.repository, policy)).toBeUndefined()
    const newer = { ...head, seq: 4 }
    expect(ownedHead([old, record(OLD, { backup: newer })], head.repository, policy)?.head).toBe(newer)
  })

  it('finds the repository by name, by id, by what others hold, and says what there is', () => {
    const records = [old, fresh]
    for (const named of ['robot-3', OLD, `${OLD}.1`]) expect(findRepository(records, named)).toBe(`${OLD}.1`)
    const replica = { repository: `${OLD}.2`, epoch: 0, seq: 1, percent: 100, daysUnchecked: 0 }
    const holding = record(THIEF, { holder: { ...holder, replicas: [replica] } })
    expect(findRepository([holding], OLD)).toBe(`${OLD}.2`)
    expect(() => findRepository(records, 'robot-4')).toThrow(/there are robot-3/)
  })

  it('is refused without a sealed password, with another recovery key, and for a device that keeps no backups', () => {
    const none = { ...head, sealed: '' }
    expect(() => planAdoption(policy, { head: none, device: OLD }, fresh, recovery.secret)).toThrow(/never sealed/)
    expect(() => planAdoption(policy, { head, device: OLD }, fresh, device.secret)).toThrow(/another key/)
    expect(() => planAdoption(policy, { head, device: OLD }, record(NEW), recovery.secret)).toThrow(
      /cannot take it over/,
    )
  })
})
