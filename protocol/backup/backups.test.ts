import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { isFlotillaError } from '../errors.ts'
import { BLANK_RECORD } from '../gossip/blank-record.ts'
import { type BackupHead, headIn, isNewer, ownerOf } from './backup-head.ts'
import { BLANK_HEAD } from './blank-head.ts'
import { type Candidate, placeReplicas } from './place-replicas.ts'
import { encodeList, FILE_KINDS, parseList, type RepositoryFile } from './repository-list.ts'
import { parseRepositoryName, repositoryName } from './repository-name.ts'
import { seal, sealPairOf, unseal } from './seal.ts'

const DEVICE = '12D3KooWGz9dLrLxV6NuKyNBpkz2hSXJ7L2RnpPBYuGVFgFNi3kC'
const OTHER = '12D3KooWKf1jwjDptBb4WmmyvrH9Qa5iKf4wjK3FG21A1rQiy7CD'
const HOUR_MS = 3_600_000
const GRACES = { absentMs: HOUR_MS, repairMs: 24 * HOUR_MS }

describe('a sealed password', () => {
  it('is opened by the key that it was sealed to, and by no other', () => {
    const [mine, other] = [sealPairOf(randomBytes(32)), sealPairOf(randomBytes(32))]
    const sealed = seal('secret', mine.publicHex)
    expect(unseal(sealed, mine.secret)).toBe('secret')
    expect(seal('secret', mine.publicHex)).not.toBe(sealed)
    for (const [text, key] of [
      [sealed, other.secret],
      [`${sealed.slice(0, -2)}00`, mine.secret],
      ['', mine.secret],
      ['abc', mine.secret],
    ] as const)
      expect(() => unseal(text, key)).toThrow(expect.objectContaining({ code: 'VERIFY_FAILED' }))
  })
})

describe('the list of a repository', () => {
  const file = fc.record({
    kind: fc.constantFrom(...FILE_KINDS),
    sha256: fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes).toString('hex')),
    lengthBytes: fc.integer({ min: 0, max: 2 ** 32 }),
  })
  const unique = fc.uniqueArray(file, { selector: ({ kind, sha256 }) => `${kind} ${sha256}` })

  it('comes back as it was written, whatever the order', () => {
    const key = ({ kind, sha256 }: RepositoryFile) => `${kind} ${sha256}`
    fc.assert(
      fc.property(unique, (files) => {
        const bytes = encodeList(files)
        const sorted = [...files].sort((a, b) => (key(a) < key(b) ? -1 : 1))
        expect([...parseList(bytes)]).toEqual(sorted)
        expect(encodeList([...files].reverse())).toEqual(bytes)
      }),
    )
  })

  it('is a coded error for any other bytes', () => {
    const line = `data ${'a'.repeat(64)} 5\n`
    for (const text of ['x', '\n', line.trim(), line + line, line.replace('data', 'locks'), line.replace('5', '05')])
      expect(() => parseList(Buffer.from(text))).toThrow(expect.objectContaining({ code: 'FORMAT' }))
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        try {
          parseList(bytes)
        } catch (error) {
          expect(isFlotillaError(error)).toBe(true)
        }
      }),
    )
  })
})

describe('the device of a repository', () => {
  const repository = repositoryName(DEVICE, 1)
  const head: BackupHead = { ...BLANK_HEAD, repository }
  const claim = { repository, to: OTHER, epoch: 1, from: DEVICE, fromEpoch: 0, sealed: 'ab' }
  const record = (device: string, backup: BackupHead) => ({ ...BLANK_RECORD, device, seq: 1, backup })

  it('is the one in its name, until a signed claim gives it to another; then nobody else speaks for it', () => {
    expect(parseRepositoryName(repository)).toEqual({ device: DEVICE, line: 1 })
    expect(ownerOf(repository, { claims: [] })).toEqual({ device: DEVICE, epoch: 0 })
    expect(headIn(record(DEVICE, head), { claims: [] })).toBe(head)
    expect(() => headIn(record(OTHER, head), { claims: [] })).toThrow(/are those of/)
    const taken = { ...head, epoch: 1, seq: 4 }
    expect(headIn(record(OTHER, taken), { claims: [claim] })).toBe(taken)
    expect(() => headIn(record(DEVICE, head), { claims: [claim] })).toThrow(/are those of/)
    expect(() => headIn(record(DEVICE, taken), { claims: [claim] })).toThrow(/are those of/)
  })

  it('is overtaken by a higher epoch whatever it counts', () => {
    expect(isNewer({ epoch: 1, seq: 0 }, { epoch: 0, seq: 99 })).toBe(true)
    expect(isNewer({ epoch: 0, seq: 99 }, { epoch: 1, seq: 0 })).toBe(false)
    expect(isNewer({ epoch: 1, seq: 5 }, { epoch: 1, seq: 5 })).toBe(false)
  })
})

describe('the placement of replicas', () => {
  const candidate = (device: string, more: Partial<Candidate> = {}): Candidate => ({
    device,
    labels: {},
    offeredBytes: 2 ** 32,
    freeBytes: 2 ** 32,
    mostBytes: 2 ** 32,
    ageMs: 0,
    percent: 0,
    isFull: false,
    ...more,
  })
  const all = Array.from({ length: 40 }, (_, n) => candidate(`d${n}`))
  const place = (candidates: readonly Candidate[], more: object = {}) =>
    placeReplicas({
      repository: 'r',
      owner: { device: 'owner', labels: { site: 'hall' }, isHere: true },
      copies: 3,
      bytes: 1_000,
      distrusted: [],
      candidates,
      graces: GRACES,
      ...more,
    })

  it('is the same whatever the order in which devices were heard of, and leaves out the owner', () => {
    const chosen = place(all)
    expect(chosen).toHaveLength(3)
    expect(place([...all].reverse())).toEqual(chosen)
    expect(place([candidate('owner'), ...all])).toEqual(chosen)
  })

  it('moves only what was on the device that went, and spreads repositories over all', () => {
    const counts = new Map<string, number>()
    let moved = 0
    for (let n = 0; n < 300; n += 1) {
      const before = place(all, { repository: `r${n}` })
      for (const device of before) counts.set(device, (counts.get(device) ?? 0) + 1)
      const after = place(all.slice(1), { repository: `r${n}` })
      const kept = before.filter((device) => after.includes(device)).length
      expect(kept).toBe(before.includes('d0') ? 2 : 3)
      moved += 3 - kept
    }
    expect(moved).toBe(counts.get('d0') ?? 0)
    expect(counts.size).toBe(40)
    expect(Math.max(...counts.values())).toBeLessThan(60)
  })

  it('gives more to those that offer more', () => {
    const mixed = all.map((one, n) => (n < 20 ? { ...one, offeredBytes: one.offeredBytes * 4 } : one))
    let large = 0
    for (let n = 0; n < 300; n += 1)
      large += place(mixed, { repository: `r${n}`, copies: 1 }).filter((device) => Number(device.slice(1)) < 20).length
    expect(large / 300).toBeGreaterThan(0.7)
  })

  it('keeps away from the site, rack and charger of the owner and of the others', () => {
    const at = (device: string, site: string, rack: string) => candidate(device, { labels: { site, rack } })
    const devices = [
      at('a', 'hall', '1'),
      at('b', 'hall', '2'),
      at('c', 'yard', '1'),
      at('d', 'yard', '2'),
      at('e', 'roof', '3'),
    ]
    for (let n = 0; n < 20; n += 1) {
      const [first = '', second = ''] = place(devices, { repository: `r${n}`, copies: 2 })
      const sites = [first, second].map((name) => devices.find(({ device }) => device === name)?.labels['site'])
      expect(new Set(sites)).toEqual(new Set(['yard', 'roof']))
    }
    // Better beside the owner than nowhere.
    expect(place(devices.slice(0, 2), { copies: 2 })).toHaveLength(2)
  })

  it('chooses nobody without room, nobody that is not trusted, and keeps who holds some already', () => {
    expect(
      place([candidate('a', { freeBytes: 10 }), candidate('b', { mostBytes: 10 }), candidate('c', { isFull: true })]),
    ).toEqual([])
    expect(place([candidate('a', { freeBytes: 10, percent: 50 })])).toEqual(['a'])
    expect(place([candidate('a'), candidate('b')], { distrusted: ['a'] })).toEqual(['b'])
    expect(place([candidate('a', { offeredBytes: 0 })])).toEqual([])
  })

  it('waits a day for a silent holder while two copies are left, and an hour when one is', () => {
    const silent = candidate('a', { percent: 100, ageMs: 2 * HOUR_MS, labels: { site: 'a' } })
    const there = candidate('b', { percent: 100, labels: { site: 'b' } })
    // Offers so little that it is the last choice.
    const fresh = candidate('c', { offeredBytes: 2_000 })
    const two = { copies: 2 }
    expect([...place([silent, there, fresh], two)].sort()).toEqual(['a', 'b'])
    const gone = { ...two, owner: { device: 'owner', labels: {}, isHere: false } }
    expect([...place([silent, there, fresh], gone)].sort()).toEqual(['b', 'c'])
    expect([...place([{ ...silent, ageMs: 25 * HOUR_MS }, there, fresh], two)].sort()).toEqual(['b', 'c'])
  })
})
