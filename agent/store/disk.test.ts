import { mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createHash } from 'node:crypto'
import { afterAll, describe, expect, it } from 'vitest'
import { encodeChunkIndex } from '../../protocol/chunks/chunk-index.ts'
import { ArtifactStore } from './artifact-store.ts'
import type { Disk } from './disk.ts'
import { writeNewFile } from './disk.ts'
import { GenerationFile } from './generation-file.ts'
import { MemoryDisk } from './memory-disk.ts'
import { NodeDisk } from './node-disk.ts'

const directory = mkdtempSync(join(tmpdir(), 'flotilla-disk-'))
const opened: NodeDisk[] = []
afterAll(async () => {
  for (const disk of opened) await disk.close()
  rmSync(directory, { recursive: true })
})
let disks = 0
const KINDS: readonly (readonly [string, () => Disk])[] = [
  ['in memory', () => new MemoryDisk()],
  [
    'on the file system',
    () => {
      disks += 1
      const path = join(directory, String(disks))
      const disk = new NodeDisk(path)
      opened.push(disk)
      return disk
    },
  ],
]

describe.each(KINDS)('a disk %s', (_name, make) => {
  async function fresh(): Promise<Disk> {
    const disk = make()
    await disk.makeDirectory('.')
    return disk
  }

  it('reads what was written, in place and short only at the end', async () => {
    const disk = await fresh()
    await disk.makeDirectory('a/b')
    await disk.allocate('a/b/f', 10)
    await disk.write('a/b/f', 4, Buffer.from('xyz'))
    await disk.flush('a/b/f')
    await disk.flushDirectory('a/b')
    await disk.dropCache('a/b/f')
    expect(Buffer.from((await disk.read('a/b/f', 0, 100)) ?? []).toString('latin1')).toBe('\0\0\0\0xyz\0\0\0')
    expect(await disk.length('a/b/f')).toBe(10)
    expect(await disk.list('a')).toEqual(['b'])
    await disk.remove('a')
    expect(await disk.length('a/b/f')).toBeUndefined()
    expect(await disk.read('a/b/f', 0, 1)).toBeUndefined()
    expect(await disk.list('a')).toEqual([])
  })

  it('keeps two generations of a small file and gives the older one when the newer is damaged', async () => {
    const disk = await fresh()
    const file = new GenerationFile(disk, 'state/x', 100)
    expect(await file.read()).toBeUndefined()
    await file.write(Buffer.from('one'))
    await file.write(Buffer.from('two'))
    expect(Buffer.from((await file.read()) ?? []).toString()).toBe('two')
    await disk.write('state/x', 66, Buffer.from('!'))
    expect(Buffer.from((await file.read()) ?? []).toString()).toBe('one')
    await file.write(Buffer.from('three'))
    expect(Buffer.from((await file.read()) ?? []).toString()).toBe('three')
  })

  it('replaces nothing when a new file is written twice', async () => {
    const disk = await fresh()
    await writeNewFile(disk, 'n', Buffer.from('1'))
    await writeNewFile(disk, 'n', Buffer.from('22'))
    expect(Buffer.from((await disk.read('n', 0, 9)) ?? []).toString()).toBe('22')
  })

  it('goes on after a kill with all but the last sixteen chunks, and finds rot when it reads', async () => {
    const disk = await fresh()
    const parts = Array.from({ length: 20 }, (_, at) => Buffer.alloc(1_000, `chunk ${at}`))
    const index = encodeChunkIndex(
      parts.map((bytes) => ({ sha256: createHash('sha256').update(bytes).digest(), lengthBytes: bytes.length })),
    )
    const sha256 = createHash('sha256').update(Buffer.concat(parts)).digest('hex')
    const first = new ArtifactStore(disk, () => Promise.resolve(undefined))
    const begun = await first.begin(index, disk, 'slot/rootfs')
    expect(await first.storeChunk(index.id, 3, Buffer.from('junk'))).toBe('bad')
    for (let at = 0; at < 18; at += 1) await first.storeChunk(index.id, at, parts[at] ?? Buffer.alloc(0))
    expect(begun.have.count).toBe(18)
    // The process dies here: nothing was flushed or closed.
    const second = new ArtifactStore(disk, () => Promise.resolve(undefined))
    const file = await second.begin(index, disk, 'slot/rootfs')
    expect(file.have.count).toBe(16)
    for (const [at, bytes] of parts.entries()) await second.storeChunk(index.id, at, bytes)
    expect(await second.verify(file, sha256)).toEqual([])
    await disk.write('slot/rootfs', 7_500, Buffer.from('rot'))
    expect(await second.readChunk(index.id, 7)).toBe('rotten')
    expect(file.have.has(7)).toBe(false)
    expect(await second.verify(file, sha256)).toEqual([7])
    await second.storeChunk(index.id, 7, parts[7] ?? Buffer.alloc(0))
    expect(await second.verify(file, sha256)).toEqual([])
  })

  it('serves a file without a break while it becomes a proven one', async () => {
    const disk = await fresh()
    const content = Buffer.alloc(1_000, 'chunk')
    const sha256 = createHash('sha256').update(content).digest()
    const index = encodeChunkIndex([{ sha256, lengthBytes: content.length }])
    const served: unknown[] = []
    const store = new ArtifactStore(disk, () => Promise.resolve(undefined))
    const file = await store.begin(index, disk, 'slot/rootfs')
    await store.storeChunk(index.id, 0, content)
    const remove = disk.remove.bind(disk)
    Object.assign(disk, {
      remove: async (path: string) => {
        served.push(await store.readChunk(index.id, 0))
        await remove(path)
      },
    })
    await store.seal(file)
    expect(served.length, 'asked in the middle of it').toBeGreaterThan(0)
    for (const bytes of served) expect(Buffer.from(bytes as Uint8Array)).toEqual(content)
    expect(store.files(index.id)).toMatchObject([{ path: 'slot/rootfs', writable: false }])
    await disk.write('slot/rootfs', 0, Buffer.from('rot'))
    expect(await store.readChunk(index.id, 0)).toBe('rotten')
    expect(await store.storeChunk(index.id, 0, content), 'nothing writes to it').toBe('unwanted')
    const again = await store.begin(index, disk, 'slot/rootfs')
    await expect(store.seal(again)).rejects.toMatchObject({ code: 'VERIFY_FAILED' })
    expect(await store.storeChunk(index.id, 0, content)).toEqual([{ artifact: index.id, chunk: 0 }])
    for (const held of store.files(index.id)) await store.drop(held)
    expect(await store.readChunk(index.id, 0)).toBe('gone')
  })

  it('takes chunks of the next release from the one that is here', async () => {
    const disk = await fresh()
    const indexOf = (parts: readonly Buffer[]) =>
      encodeChunkIndex(
        parts.map((bytes) => ({ sha256: createHash('sha256').update(bytes).digest(), lengthBytes: bytes.length })),
      )
    const old = [Buffer.alloc(900, 'a'), Buffer.alloc(800, 'b'), Buffer.alloc(700, 'c')]
    const next = [Buffer.alloc(600, 'new'), ...old, Buffer.alloc(800, 'b')]
    await disk.makeDirectory('old')
    await disk.allocate('old/rootfs', 2_400)
    await disk.write('old/rootfs', 0, Buffer.concat(old))
    const store = new ArtifactStore(disk, () => Promise.resolve(undefined))
    store.addWhole(indexOf(old), disk, 'old/rootfs')
    const index = indexOf(next)
    const file = await store.begin(index, disk, 'new/rootfs')
    expect((await store.fillFromDevice(file)).map(({ chunk }) => chunk).sort()).toEqual([1, 2, 3, 4])
    expect(file.have.has(0)).toBe(false)
  })
})

describe('a full or failing disk', () => {
  it('is NOT_ENOUGH_SPACE before anything is half-written', async () => {
    const disk = new MemoryDisk(5_000)
    await expect(disk.allocate('big', 6_000)).rejects.toMatchObject({ code: 'NOT_ENOUGH_SPACE' })
    await disk.allocate('small', 4_000)
    expect(await disk.freeBytes()).toBe(1_000)
  })

  it('names the path and the reason', async () => {
    const disk = new NodeDisk(join(directory, 'nowhere'))
    await expect(disk.allocate('x/y', 1)).rejects.toMatchObject({
      code: 'DISK_FAILED',
      message: expect.stringContaining('x/y') as string,
    })
  })
})

describe('a directory on a real file system', () => {
  it('loses no open file, however many are read at once: one that is forgotten is closed by the garbage collector, which ends the agent', async () => {
    const root = mkdtempSync(join(tmpdir(), 'flotilla-disk-'))
    const disk = new NodeDisk(root)
    const names = Array.from({ length: 48 }, (_, at) => `file-${at}`)
    for (const name of names) {
      await disk.allocate(name, 16)
      await disk.write(name, 0, Buffer.from(name))
    }
    const opened = () =>
      readdirSync('/proc/self/fd').filter((fd) => {
        try {
          return readlinkSync(`/proc/self/fd/${fd}`).startsWith(root)
        } catch {
          return false // closed meanwhile
        }
      }).length
    for (let round = 0; round < 20; round += 1) {
      // Each three times in the same moment, more of them than are kept open.
      const reads = [...names, ...names, ...names].map((name) => disk.read(name, 0, 16))
      await Promise.all([...reads, disk.remove(`gone-${round}`)])
    }
    expect(opened()).toBeLessThanOrEqual(32)
    await disk.close()
    expect(opened()).toBe(0)
    rmSync(root, { recursive: true })
  })
})
