import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { encodeBootRecord, parseBootRecord } from '../boot/boot-record.ts'
import { isChunk, parseChunkIndex } from '../chunks/chunk-index.ts'
import { GEAR } from '../chunks/cut-by-content.ts'
import { parseRelease } from '../release/description.ts'
import { canonicalJson, sortedJson } from '../trust/canonical-json.ts'
import { ed25519KeyJson, keyIdOf, verifyEd25519 } from '../trust/public-key.ts'

type Bad = { readonly why: string }
function vectors<T>(name: string): T {
  return JSON.parse(readFileSync(join(import.meta.dirname, 'vectors', `${name}.json`), 'utf8')) as T
}
const bytes = (hex: string) => Buffer.from(hex, 'hex')
const hex = (data: Uint8Array) => Buffer.from(data).toString('hex')

describe('the test vectors', () => {
  it('of trust: canonical forms, key ids, signatures that pass and that fail', () => {
    const trust = vectors<{
      canonical: { value: unknown; canonical: string; sorted: string }[]
      notCanonical: unknown[]
      keyIds: { public: string; keyId: string }[]
      signatures: { public: string; message: string; signature: string; valid: boolean }[]
    }>('trust')
    for (const { value, canonical, sorted } of trust.canonical) {
      expect(hex(canonicalJson(value))).toBe(canonical)
      expect(hex(sortedJson(value))).toBe(sorted)
      expect(JSON.parse(bytes(sorted).toString())).toEqual(value)
    }
    for (const value of trust.notCanonical) expect(() => canonicalJson(value)).toThrow(/whole number/)
    for (const { public: key, keyId } of trust.keyIds) expect(keyIdOf(ed25519KeyJson(key))).toBe(keyId)
    for (const { public: key, message, signature, valid } of trust.signatures) {
      expect(verifyEd25519(bytes(key), bytes(message), bytes(signature))).toBe(valid)
    }
  })

  it('of chunk indexes', () => {
    const chunks = vectors<{
      gear: { first: number; last: number; sha256OfTable: string }
      good: { index: string; id: string; artifactBytes: number; chunks: string[] }[]
      bad: ({ index: string } & Bad)[]
    }>('chunks')
    expect([GEAR[0], GEAR[255]]).toEqual([chunks.gear.first, chunks.gear.last])
    expect(createHash('sha256').update(Buffer.from(GEAR.buffer)).digest('hex')).toBe(chunks.gear.sha256OfTable)
    for (const good of chunks.good) {
      const index = parseChunkIndex(bytes(good.index))
      expect([index.id, index.artifactBytes, index.count]).toEqual([good.id, good.artifactBytes, good.chunks.length])
      good.chunks.forEach((text, at) => expect(isChunk(index, at, Buffer.from(text))).toBe(true))
    }
    for (const { index, why } of chunks.bad) {
      expect(() => parseChunkIndex(bytes(index)), why).toThrow(expect.objectContaining({ code: 'BAD_INDEX' }))
    }
  })

  it('of boot records', () => {
    const records = vectors<{
      good: { bytes: string; record: Record<string, unknown> }[]
      bad: ({ bytes: string } & Bad)[]
    }>('boot-record')
    for (const good of records.good) {
      const record = parseBootRecord(bytes(good.bytes))
      expect({ ...record, trial: record?.trial ?? null }).toEqual({
        ...good.record,
        trial: good.record['trial'] ?? null,
      })
      if (record !== undefined) expect(hex(encodeBootRecord(record))).toBe(good.bytes)
    }
    for (const bad of records.bad) expect(parseBootRecord(bytes(bad.bytes)), bad.why).toBeUndefined()
  })

  it('of release descriptions', () => {
    const releases = vectors<{ good: { text: string; id: string }[]; bad: ({ text: string } & Bad)[] }>('release')
    for (const { text, id } of releases.good) expect(parseRelease(Buffer.from(text)).id).toBe(id)
    for (const { text, why } of releases.bad) {
      expect(() => parseRelease(Buffer.from(text)), why).toThrow(expect.objectContaining({ code: 'FORMAT' }))
    }
  })
})
