import { describe, expect, it } from 'vitest'
import { parseMedium, requireWritable } from './medium.ts'
import { planDiskImage, requireApart, sfdiskScript } from './plan-disk-image.ts'

const MIB = 2 ** 20
const wish = {
  layout: { table: 'gpt', raw: [], bootFiles: undefined },
  efi: true,
  bootBytes: 100 * MIB,
  persistBytes: MIB,
  bootPartitionBytes: undefined,
  totalBytes: undefined,
} as const

describe('the plan of a disk image', () => {
  it('has room for three releases, persist last, and whole mebibytes', () => {
    const { partitions, lengthBytes } = planDiskImage({ ...wish, bootBytes: 500 * MIB })
    const [boot, persist] = partitions
    expect(boot.lengthBytes).toBeGreaterThanOrEqual(3 * 500 * MIB)
    expect(persist.startBytes).toBe(boot.startBytes + boot.lengthBytes)
    for (const { startBytes, lengthBytes: length } of partitions)
      expect([startBytes % MIB, length % MIB]).toEqual([0, 0])
    expect(persist.startBytes + persist.lengthBytes + MIB).toBe(lengthBytes)
  })

  it('is refused when what goes onto it does not fit into what was asked for', () => {
    expect(() => planDiskImage({ ...wish, bootBytes: 400 * MIB, bootPartitionBytes: 400 * MIB })).toThrow(
      /boot partition needs 462.4 MB, 419.4 MB were asked for/,
    )
    expect(() => planDiskImage({ ...wish, totalBytes: 500 * MIB })).toThrow(/the image needs/)
  })

  it('is a script for sfdisk: an EFI system partition, names and a boot mark where the table has them', () => {
    expect(sfdiskScript(planDiskImage({ ...wish, bootPartitionBytes: 512 * MIB, totalBytes: 1_024 * MIB }))).toBe(
      'label: gpt\nunit: sectors\n\nstart=32768, size=1048576, type=U, name=BOOT\nstart=1081344, size=1013760, type=L, name=persist\n',
    )
    const dos = planDiskImage({ ...wish, layout: { ...wish.layout, table: 'dos' }, bootPartitionBytes: 512 * MIB })
    expect(sfdiskScript(dos)).toMatch(/^label: dos\n.*\n\nstart=32768, size=1048576, type=c, bootable\n/)
  })
})

describe('what lies before the partitions', () => {
  const raw = (file: string, atBytes: number, sizeBytes: number, lengthBytes?: number) => ({
    file,
    atBytes,
    fromBytes: 0,
    lengthBytes,
    sizeBytes,
  })

  it('may fill the gaps around the table', () => {
    expect(() => requireApart([raw('mbr', 0, 512, 440), raw('core', 512, MIB)], 'dos')).not.toThrow()
    expect(() => requireApart([raw('spl', 32_768, 100_000), raw('u-boot', 8 * MIB, 8 * MIB)], 'gpt')).not.toThrow()
  })

  it.each([
    ['dos', [raw('mbr', 0, 512)], /mbr reaches to byte 512, where the partition table begins at 440/],
    ['gpt', [raw('spl', 8_192, 1_000)], /the partition table reaches to byte 17408, where spl begins at 8192/],
    ['dos', [raw('a', 512, 600), raw('b', 1_024, 1)], /a reaches to byte 1112, where b begins at 1024/],
    ['gpt', [raw('u-boot', 8 * MIB, 9 * MIB)], /where the first partition begins/],
  ] as const)('must not reach into each other (%s)', (table, list, words) => {
    expect(() => requireApart(list, table)).toThrow(words)
  })
})

describe('a medium', () => {
  const disk = (change: object = {}) =>
    parseMedium({
      blockdevices: [
        { path: '/dev/sdb', type: 'disk', size: 8e9, ro: false, model: 'Card ', mountpoints: [null], ...change },
      ],
    })
  const child = (change: object) => ({
    children: [{ path: '/dev/sdb1', type: 'part', size: 1, ro: false, mountpoints: [null], ...change }],
  })

  it('is written to when it is a whole disk that nobody uses', () => {
    expect(() => requireWritable(disk(), 8e9)).not.toThrow()
    expect(() => requireWritable(disk(child({})), 8e9)).not.toThrow()
  })

  it.each([
    [{ type: 'part' }, /it is a part, not a whole disk/],
    [child({ mountpoints: ['/'] }), /this system runs from it/],
    [child({ mountpoints: ['[SWAP]'] }), /this system runs from it/],
    [child({ mountpoints: ['/media/card'] }), /mounted at \/media\/card; unmount it first/],
    [child({ children: [{ path: '/dev/md0', type: 'raid1', mountpoints: [null] }] }), /\/dev\/md0 is made of it/],
    [{ ro: true }, /read-only; is there a lock/],
    [{ size: 7e9 }, /the image has 8.0 GB, the medium 7.0 GB/],
  ])('is refused when it is in use or will not do: %j', (change, words) => {
    expect(() => requireWritable(disk(change), 8e9)).toThrow(words)
  })
})
