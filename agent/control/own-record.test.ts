import { describe, expect, it } from 'vitest'
import { BLANK_RECORD } from '../../protocol/gossip/blank-record.ts'
import { identityFromSeed } from '../../protocol/network/identity.ts'
import { signCertificate } from '../../protocol/membership/certificate.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import { MemoryDisk } from '../store/memory-disk.ts'
import { OwnRecord } from './own-record.ts'

const ca = identityFromSeed(new Uint8Array(32).fill(1))
const identity = identityFromSeed(new Uint8Array(32).fill(2))
const certificate = signCertificate(
  { fleet: 'demo', device: identity.id, name: 'r', board: 'pi-4', capabilities: ['sync'], serial: 1, epoch: 1 },
  ca.publicHex,
  ca.sign,
)
const fields = { ...BLANK_RECORD, device: identity.id, name: 'r' }

function open(disk: MemoryDisk, onFailure: (error: unknown) => void = () => {}): Promise<OwnRecord> {
  return OwnRecord.open(disk, () => fields, certificate, identity.sign, onFailure)
}
const seqOf = (own: OwnRecord, nowMs: number) => own.next(nowMs)?.record.seq ?? 0

describe('the own record', () => {
  it('rises over restarts', async () => {
    const disk = new MemoryDisk()
    const first = seqOf(await open(disk), 0)
    expect(seqOf(await open(disk), 0)).toBeGreaterThan(first)
  })

  it('goes on above what the fleet holds of it when the disk was set back, and keeps that', async () => {
    const disk = new MemoryDisk()
    const own = await open(disk)
    const ahead = 9 * 2 ** 24 + 5
    expect(await own.heard(1)).toBe('known')
    expect(await own.heard(ahead)).toBe('restored')
    expect(seqOf(own, 0)).toBeGreaterThan(ahead)
    expect(seqOf(await open(disk), 0)).toBeGreaterThan(ahead)
  })

  it('says that the key is in use elsewhere when somebody is ahead again', async () => {
    const own = await open(new MemoryDisk())
    await own.heard(9 * 2 ** 24)
    expect(await own.heard(20 * 2 ** 24)).toBe('elsewhere')
  })

  it('is signed all the same when the run cannot be kept', async () => {
    const disk = new MemoryDisk()
    disk.failAt(0, Infinity, new FlotillaError('DISK_FAILED', 'read-only'))
    const failures: unknown[] = []
    const own = await open(disk, (error) => failures.push(error))
    expect(failures).toHaveLength(1)
    expect(seqOf(own, 0)).toBeGreaterThan(0)
  })

  it.each([
    ['5 devices at rest', 5, false, 180],
    ['50 devices at rest', 50, false, 500],
    ['150 devices at rest', 150, false, 600],
    ['1000 devices at rest', 1_000, false, 3_000],
    ['1000 devices, an update under way', 1_000, true, 45],
  ])('is renewed as it should be: %s', async (_what, fleetSize, isBusy, seconds) => {
    const now = isBusy ? { ...fields, next: { id: 'a'.repeat(64), version: '2', percent: 10 } } : fields
    const own = await OwnRecord.open(
      new MemoryDisk(),
      () => now,
      certificate,
      identity.sign,
      () => {},
      () => 0.5,
    )
    own.next(0, fleetSize)
    expect(own.next(seconds * 1_000 - 1, fleetSize)).toBeUndefined()
    expect(own.next(seconds * 1_000, fleetSize)).toBeDefined()
  })
})
