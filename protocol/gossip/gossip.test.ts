import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { admit, parseCertificate, signCertificate } from '../membership/certificate.ts'
import { BLANK_POLICY } from '../membership/blank-policy.ts'
import type { FleetPolicy } from '../membership/fleet-policy.ts'
import { identityFromSeed } from '../network/identity.ts'
import { BLANK_RECORD } from './blank-record.ts'
import { type DeviceRecord, parseRecord, type SignedRecord, signRecord } from './device-record.ts'
import { RecordBook } from './record-book.ts'

const ca = identityFromSeed(new Uint8Array(32).fill(7))
const policy: FleetPolicy = { ...BLANK_POLICY, caKeys: [ca.publicHex], minEpoch: 2 }

function member(name: string, epoch = 2, seed: Uint8Array = randomBytes(32)) {
  const identity = identityFromSeed(seed)
  const card = {
    fleet: 'demo',
    device: identity.id,
    name,
    board: 'pi-4',
    capabilities: ['sync' as const],
    serial: 1,
    epoch,
  }
  return { identity, certificate: signCertificate(card, ca.publicHex, ca.sign) }
}

function record(who: ReturnType<typeof member>, seq: number, fields: Partial<DeviceRecord> = {}): SignedRecord {
  const base = { ...BLANK_RECORD, device: who.identity.id, seq, ...fields }
  return parseRecord(signRecord(base, who.certificate, who.identity.sign))
}

describe('a certificate', () => {
  it('admits its device only, under the policy of its fleet', () => {
    const { identity, certificate } = member('robot')
    const signed = parseCertificate(certificate)
    expect(admit(signed, identity.id, policy).name).toBe('robot')
    const refused = (change: Partial<FleetPolicy>, peer = identity.id) => {
      try {
        admit(signed, peer, { ...policy, ...change })
      } catch (error) {
        return (error as { code: string }).code
      }
      return 'admitted'
    }
    expect(refused({}, member('other').identity.id)).toBe('NOT_A_MEMBER')
    expect(refused({ fleet: 'else' })).toBe('NOT_A_MEMBER')
    expect(refused({ caKeys: ['0'.repeat(64)] })).toBe('NOT_A_MEMBER')
    expect(refused({ minEpoch: 3 })).toBe('NOT_A_MEMBER')
    expect(refused({ revoked: [identity.id] })).toBe('REVOKED')
  })

  it('is refused after any one-bit change', () => {
    const { identity, certificate } = member('robot')
    fc.assert(
      fc.property(fc.nat(certificate.length - 1), fc.nat(7), (at, bit) => {
        const bytes = Uint8Array.from(certificate)
        bytes[at] = (bytes[at] ?? 0) ^ (1 << bit)
        expect(() => admit(parseCertificate(bytes), identity.id, policy)).toThrow(
          expect.objectContaining({ code: expect.any(String) as string }),
        )
      }),
    )
  })
})

describe('a device record', () => {
  it('carries any text that a failing check printed', () => {
    const who = member('robot')
    const log = 'line one\nline two\t\u001b[31mred\u0000 "quoted" \\ ü'
    const read = record(who, 1, { failed: { id: 'a'.repeat(64), version: '2', reason: 'a\nb', log } })
    expect(read.record.failed?.log).toBe(log)
  })

  it('is believed only when the device itself signed it', () => {
    const who = member('robot')
    const other = member('other')
    expect(() => parseRecord(signRecord(record(who, 1).record, who.certificate, other.identity.sign))).toThrow(
      /not signed/,
    )
    expect(() => parseRecord(signRecord(record(who, 1).record, other.certificate, who.identity.sign))).toThrow(
      /another device/,
    )
  })
})

describe('books of records', () => {
  it('agree after any exchange order, on the newest record of each device', () => {
    const who = [member('a'), member('b'), member('c')]
    const records = who.flatMap((one) => [1, 2, 3].map((seq) => record(one, seq)))
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(records.length - 1), fc.nat(2)), { maxLength: 30 }), (arrivals) => {
        const books = [new RecordBook(), new RecordBook(), new RecordBook()]
        for (const [at, book] of arrivals) {
          const signed = records[at]
          if (signed !== undefined) books[book]?.merge(signed, 0, 0)
        }
        // Two rounds of pairwise digests on a line reach everybody.
        for (const [x, y] of [
          [0, 1],
          [1, 2],
          [0, 1],
          [1, 2],
        ] as const) {
          const [one, two] = [books[x], books[y]]
          if (one === undefined || two === undefined) continue
          for (const { signed, ageMs } of two.newerThan(one.digest(0), 0)) one.merge(signed, ageMs, 0)
          for (const { signed, ageMs } of one.newerThan(two.digest(0), 0)) two.merge(signed, ageMs, 0)
        }
        expect(new Set(books.map((book) => book.summary(0))).size).toBe(1)
        for (const one of who) {
          const newest = Math.max(
            0,
            ...arrivals
              .map(([at]) => records[at])
              .filter((signed) => signed?.record.device === one.identity.id)
              .map((signed) => signed?.record.seq ?? 0),
          )
          expect(books[0]?.get(one.identity.id)?.record.seq ?? 0).toBe(newest)
        }
      }),
    )
  })

  it('pass no record on that is older than a week, yet show it with its age', () => {
    const book = new RecordBook()
    book.merge(record(member('old'), 1), 0, 0)
    const later = 8 * 86_400_000
    expect(book.digest(later)).toEqual([])
    expect(book.all(later)[0]?.ageMs).toBe(later)
    expect(book.all(91 * 86_400_000)).toEqual([])
  })

  it('are bounded: the stalest makes room', () => {
    const book = new RecordBook({ records: 2, meshMs: 1e9, forgetMs: 1e9 })
    const [a, b, c] = [member('a'), member('b'), member('c')]
    book.merge(record(a, 1), 0, 10)
    book.merge(record(b, 1), 0, 20)
    expect(book.merge(record(c, 1), 0, 30)).toBe(true)
    expect(book.get(a.identity.id)).toBeUndefined()
    expect(book.merge(record(a, 1), 100, 30)).toBe(false)
  })
})
