import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { FlotillaError } from '../errors.ts'
import { chunkHash, encodeChunkIndex, isChunk, MAX_CHUNK_BYTES, parseChunkIndex } from './chunk-index.ts'
import { type Cut, cutArtifact } from './cut-artifact.ts'
import { RELEASE_CUT } from './cut-by-content.ts'
import { squashfsBoundaries } from './squashfs-boundaries.ts'

const reader = (data: Uint8Array) => (offset: number, length: number) => data.subarray(offset, offset + length)
const cutAll = (data: Uint8Array): Cut[] => [...cutArtifact(reader(data), data.length)]
const hashes = (cuts: readonly Cut[]) => cuts.map((cut) => createHash('sha256').update(cut.bytes).digest('hex'))

describe('cutting by content', () => {
  it('covers every byte once, within the sizes', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 900_000 }), (length) => {
        const data = randomBytes(length)
        const cuts = cutAll(data)
        expect(Buffer.concat(cuts.map((cut) => cut.bytes)).equals(data)).toBe(true)
        for (const cut of cuts) expect(cut.bytes.length).toBeLessThanOrEqual(MAX_CHUNK_BYTES)
        for (const cut of cuts.slice(0, -1)) expect(cut.bytes.length).toBeGreaterThanOrEqual(RELEASE_CUT.minBytes)
      }),
      { numRuns: 20 },
    )
  })

  it('finds its step again after an insertion: only the chunks around it are new', () => {
    const data = randomBytes(20_000_000)
    const changed = Buffer.concat([data.subarray(0, 5_000_000), Buffer.from('inserted'), data.subarray(5_000_000)])
    const before = new Set(hashes(cutAll(data)))
    expect(hashes(cutAll(changed)).filter((hash) => !before.has(hash)).length).toBeLessThan(6)
  })
})

describe('cutting a squashfs', () => {
  it('cuts at block boundaries, so that a file added in front leaves the rest alone', () => {
    const directory = mkdtempSync(join(tmpdir(), 'flotilla-squash-'))
    try {
      const build = (name: string, files: readonly string[]) => {
        const tree = join(directory, name)
        mkdirSync(tree)
        for (const file of files) {
          // Half of it compresses, so that blocks have odd lengths.
          const noise = createHash('sha256').update(file).digest()
          writeFileSync(
            join(tree, file),
            Buffer.concat(
              Array.from({ length: 20_000 }, (_, at) =>
                at % 2 ? noise : createHash('sha256').update(`${file}${at}`).digest(),
              ),
            ),
          )
        }
        execFileSync('mksquashfs', [
          tree,
          join(directory, `${name}.squashfs`),
          '-quiet',
          '-no-progress',
          '-comp',
          'zstd',
          '-all-root',
          '-mkfs-time',
          '0',
          '-all-time',
          '0',
        ])
        return readFileSync(join(directory, `${name}.squashfs`))
      }
      const old = build('old', ['b', 'c', 'd', 'e'])
      const next = build('next', ['a', 'b', 'c', 'd', 'e'])
      const boundaries = squashfsBoundaries(reader(old), old.length)
      expect(boundaries?.length).toBeGreaterThan(15)
      const held = new Set(hashes(cutAll(old)))
      const cuts = cutAll(next)
      const fetched = cuts
        .filter((_cut, at) => !held.has(hashes(cuts)[at] ?? ''))
        .reduce((sum, cut) => sum + cut.bytes.length, 0)
      expect(fetched).toBeLessThan(next.length * 0.35) // one file of five, and the tables
      expect(Buffer.concat(cuts.map((cut) => cut.bytes)).equals(next)).toBe(true)
    } finally {
      rmSync(directory, { recursive: true })
    }
  })

  it('cuts damaged and foreign images by content instead', () => {
    const head = Buffer.alloc(200_000)
    head.writeUInt32LE(0x73717368, 0)
    head.writeUInt16LE(4, 28)
    head.writeUInt16LE(6, 20)
    head.writeUInt32LE(1_000_000, 4)
    expect(squashfsBoundaries(reader(head), head.length)).toBeUndefined()
    expect(Buffer.concat(cutAll(head).map((cut) => cut.bytes)).equals(head)).toBe(true)
  })
})

describe('a chunk index', () => {
  const index = encodeChunkIndex(
    [Buffer.from('one'), Buffer.from('two!')].map((bytes) => ({
      sha256: createHash('sha256').update(bytes).digest(),
      lengthBytes: bytes.length,
    })),
  )

  it('reads back, and knows its chunks', () => {
    const read = parseChunkIndex(index.bytes)
    expect(read.id).toBe(index.id)
    expect(read.artifactBytes).toBe(7)
    expect(isChunk(read, 1, Buffer.from('two!'))).toBe(true)
    expect(isChunk(read, 0, Buffer.from('two!'))).toBe(false)
    expect(isChunk(read, 2, Buffer.from('two!'))).toBe(false)
    expect(chunkHash(read, 0)).toBe(createHash('sha256').update('one').digest('hex'))
  })

  it('is BAD_INDEX after any change of its frame, and for any bytes', () => {
    for (const at of [0, 8, 9, 12, 16]) {
      const bytes = Uint8Array.from(index.bytes)
      bytes[at] = (bytes[at] ?? 0) ^ 1
      expect(() => parseChunkIndex(bytes)).toThrow(FlotillaError)
    }
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (junk) => {
        expect(() => parseChunkIndex(junk)).toThrow(expect.objectContaining({ code: 'BAD_INDEX' }))
      }),
    )
  })
})
