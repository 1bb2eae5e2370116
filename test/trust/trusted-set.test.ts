import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { metadataBytes, signMetadata } from '../../builder/release/compose-metadata.ts'
import { findRelease } from '../../protocol/release/find-release.ts'
import { judgeBundle } from '../../protocol/trust/metadata-bundle.ts'
import { timeFloorMs } from '../../protocol/trust/time-floor.ts'
import { acceptRoot, DEVICE_RULES, reverifySet, trustRoot, type TrustedSet } from '../../protocol/trust/trusted-set.ts'
import { DAY, T0, ToyRepository, toyKey } from './toy-repository.ts'

function enrolled(repository: ToyRepository): TrustedSet {
  const verdict = judgeBundle(
    trustRoot(repository.roots[0] ?? new Uint8Array(), T0, DEVICE_RULES),
    repository.bundle(),
    DEVICE_RULES,
  )
  if (verdict.refusal !== undefined) throw verdict.refusal
  return verdict.set
}
const refusal = (set: TrustedSet, bundle: Parameters<typeof judgeBundle>[1]) =>
  judgeBundle(set, bundle, DEVICE_RULES).refusal?.code

describe('a trusted set', () => {
  it('takes a whole repository and finds the release of a board', () => {
    const repository = new ToyRepository()
    const set = enrolled(repository)
    expect(findRelease(set, 'pi-4', 'stable', DEVICE_RULES)?.lengthBytes).toBe(repository.release.length)
    expect(findRelease(set, 'pi-5', 'stable', DEVICE_RULES)).toBeUndefined()
  })

  it('refuses an older timestamp as superseded', () => {
    const repository = new ToyRepository()
    const old = repository.bundle()
    repository.publish({ board: true })
    expect(refusal(enrolled(repository), { ...old, roots: [] })).toBe('ROLLBACK')
  })

  it('refuses a role of one publication under the snapshot of another', () => {
    const repository = new ToyRepository()
    const set = enrolled(repository)
    const oldRole = repository.roles.get('pi-4.stable') ?? new Uint8Array()
    repository.publish({ board: true })
    const mixed = { ...repository.bundle(), roots: [], roles: new Map(repository.roles).set('pi-4.stable', oldRole) }
    expect(refusal(set, mixed)).toBe('MIX_AND_MATCH')
  })

  it('keeps nothing of a publication whose snapshot is withheld, so that an older honest peer still helps', () => {
    const repository = new ToyRepository()
    const set = enrolled(repository)
    repository.publish({ board: true })
    const honest = repository.bundle()
    repository.publish({ board: true })
    const half = judgeBundle(set, { ...repository.bundle(), roots: [], snapshot: undefined }, DEVICE_RULES)
    expect(half.refusal?.code).toBe('MISSING')
    expect(half.set).toBe(set)
    expect(judgeBundle(half.set, { ...honest, roots: [] }, DEVICE_RULES).set.timestamp?.data.version).toBe(2)
  })

  it('walks three missed root rotations and drops what a rotated publisher key had signed', () => {
    const repository = new ToyRepository()
    const set = enrolled(repository)
    for (const round of [1, 2, 3]) {
      const old = repository.keys.root.slice(0, 2)
      repository.keys.root = [toyKey(`root-${round}-a`), toyKey(`root-${round}-b`)]
      repository.keys.publisher = [toyKey(`publisher-${round}-a`)]
      repository.signRoot(repository.keys.root, old)
    }
    repository.publish()
    const verdict = judgeBundle(set, repository.bundle(1), DEVICE_RULES)
    expect(verdict.refusal).toBeUndefined()
    expect(verdict.set.root.data.version).toBe(4)
    expect(verdict.newRoots).toHaveLength(3)
  })

  it('never again accepts a publisher key that root took back', () => {
    const repository = new ToyRepository()
    const stolen = repository.keys.publisher
    let set = enrolled(repository)
    repository.keys.publisher = [toyKey('publisher-new')]
    repository.signRoot()
    set = acceptRoot(set, repository.roots[1] ?? new Uint8Array(), DEVICE_RULES)
    repository.keys.publisher = stolen
    repository.publish({ board: true })
    expect(refusal(set, { ...repository.bundle(2), roots: [] })).toBe('SIGNATURE')
  })

  it('recovers from a stolen publisher key that raised versions to the maximum', () => {
    const repository = new ToyRepository()
    repository.versions.timestamp = 2 ** 40
    repository.versions.snapshot = 2 ** 40
    repository.publish()
    let set = enrolled(repository)
    expect(set.timestamp?.data.version).toBeGreaterThan(2 ** 40)
    repository.keys.publisher = [toyKey('publisher-new')]
    repository.signRoot()
    repository.versions.timestamp = 5
    repository.versions.snapshot = 5
    repository.publish({ board: true })
    const verdict = judgeBundle(set, repository.bundle(1), DEVICE_RULES)
    expect(verdict.refusal).toBeUndefined()
    set = verdict.set
    expect(set.timestamp?.data.version).toBe(6)
  })

  it('refuses a root signed by too few of the old keys or skipping a version', () => {
    const repository = new ToyRepository()
    const set = enrolled(repository)
    const strangers = [toyKey('x'), toyKey('y')]
    repository.keys.root = strangers
    repository.signRoot(strangers, [])
    expect(refusal(set, repository.bundle(1))).toBe('SIGNATURE')
    const other = new ToyRepository()
    other.signRoot()
    other.signRoot()
    expect(refusal(enrolled(new ToyRepository()), { ...other.bundle(2), timestamp: undefined })).toBe('ROLLBACK')
  })

  it('counts one key under two ids once', () => {
    const repository = new ToyRepository()
    const json = repository.rootJson()
    const [first] = repository.keys.root
    if (first === undefined) throw new Error('no key')
    // The same 32 bytes under an upper-case spelling get another id; the strict policy wants ids that are hashes.
    const twin = { keytype: 'ed25519', scheme: 'ed25519', keyval: { public: first.publicHex.toUpperCase() } }
    const signed = { ...json.signed, keys: { ...(json.signed['keys'] as object), twin } }
    expect(() => trustRoot(metadataBytes(signMetadata({ signed, signatures: [] }, [first])), T0, DEVICE_RULES)).toThrow(
      /not the SHA-256|signatures/,
    )
  })

  it('judges expiry against signed times only: 1970 and plus twenty years change nothing', () => {
    const repository = new ToyRepository()
    const set = enrolled(repository)
    expect(timeFloorMs(set)).toBe(T0)
    // Two years and a day later the operator signs a timestamp: now the board role is provably expired.
    repository.nowMs = T0 + 731 * DAY
    repository.publish()
    const verdict = judgeBundle(set, repository.bundle(), DEVICE_RULES)
    expect(verdict.refusal).toBeUndefined()
    expect(() => findRelease(verdict.set, 'pi-4', 'stable', DEVICE_RULES)).toThrow(/expired/)
  })

  it('refuses an issue time beyond the expiry of the root, which would push the floor for ever', () => {
    const repository = new ToyRepository()
    const set = enrolled(repository)
    repository.nowMs = T0 + 10_000 * DAY
    repository.publish()
    expect(refusal(set, { ...repository.bundle(), roots: [] })).toBe('FORMAT')
  })

  it('refuses to act with an older root than the timestamp asks for', () => {
    const repository = new ToyRepository()
    const set = enrolled(repository)
    repository.minRoot = 2
    repository.publish({ board: true })
    expect(refusal(set, { ...repository.bundle(), roots: [] })).toBe('MISSING')
  })

  it('refuses oversized files by length before it parses them', () => {
    const repository = new ToyRepository()
    const huge = Buffer.from(`{"signed":{"keys":{${'"a":1,'.repeat(3_000)}"b":1}},"signatures":[]}`)
    expect(refusal(enrolled(repository), { ...repository.bundle(), roots: [huge] })).toBe('LENGTH')
  })

  it('refuses a one-bit change anywhere in any file of a publication', () => {
    const repository = new ToyRepository()
    const set = enrolled(repository)
    repository.publish({ targets: true, board: true })
    const whole = { ...repository.bundle(), roots: [] }
    const names = ['timestamp', 'snapshot', 'targets', 'pi-4.stable'] as const
    fc.assert(
      fc.property(fc.constantFrom(...names), fc.nat(), fc.nat(7), (name, at, bit) => {
        const original = name === 'timestamp' || name === 'snapshot' ? whole[name] : whole.roles.get(name)
        const flipped = Uint8Array.from(original ?? [])
        const position = at % flipped.length
        flipped[position] = (flipped[position] ?? 0) ^ (1 << bit)
        const bundle =
          name === 'timestamp' || name === 'snapshot'
            ? { ...whole, [name]: flipped }
            : { ...whole, roles: new Map(whole.roles).set(name, flipped) }
        const verdict = judgeBundle(set, bundle, DEVICE_RULES)
        // White space and letter case of signatures in hexadecimal carry no meaning; everything else must be refused.
        expect(verdict.refusal !== undefined || verdict.set.timestamp?.data.version === 2).toBe(true)
        if (verdict.refusal === undefined)
          expect(Buffer.from(flipped).toString().toLowerCase()).toBe(
            Buffer.from(original ?? [])
              .toString()
              .toLowerCase(),
          )
      }),
      { numRuns: 400 },
    )
  })

  it('reads back from its own files, and leaves out what does not verify', () => {
    const repository = new ToyRepository()
    const set = enrolled(repository)
    const files = {
      root: set.root.bytes,
      timestamp: set.timestamp?.bytes,
      snapshot: set.snapshot?.bytes,
      roles: new Map([...set.roles].map(([name, file]) => [name, file.bytes])),
    }
    expect(reverifySet(files, T0, DEVICE_RULES).roles.size).toBe(2)
    expect(reverifySet({ ...files, snapshot: Buffer.from('{}') }, T0, DEVICE_RULES).roles.size).toBe(0)
  })

  it('answers any bytes with a coded refusal', () => {
    const repository = new ToyRepository()
    const set = enrolled(repository)
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.json(), (bytes, json) => {
        for (const junk of [bytes, Buffer.from(json), Buffer.from(`{"signed":${json},"signatures":[]}`)]) {
          expect(judgeBundle(set, { ...repository.bundle(), roots: [junk] }, DEVICE_RULES).refusal?.code).toMatch(
            /FORMAT|LENGTH|SIGNATURE|LIMIT/,
          )
        }
      }),
    )
  })
})
