import { FlotillaError } from '../../protocol/errors.ts'
import { formatBytes } from '../../protocol/terminal/print.ts'
import { type BoardLayout, FIRST_PARTITION_BYTES, type RawImage } from '../layers/board.ts'

const MIB = 2 ** 20
/** The second table of a GPT, at the end. */
const TAIL_BYTES = MIB
/** The least that mkfs.vfat makes a FAT32 of, with clusters of 4 KiB: FAT16 boot partitions are not read by all firmware. */
const MIN_BOOT_BYTES = 300 * MIB
const MIN_PERSIST_BYTES = 64 * MIB
/** What a file system needs besides its files: a share, and the journal and inodes of ext4. */
const OVERHEAD = 1.1
const EXT4_BYTES = 48 * MIB

/** A partition of a disk image. @property name - the label of its file system, by which the device finds it */
export type PartitionPlan = {
  readonly name: 'BOOT' | 'persist'
  readonly fileSystem: 'vfat' | 'ext4'
  /** As sfdisk writes it. */
  readonly type: string
  readonly startBytes: number
  readonly lengthBytes: number
}

/** How a disk image is laid out. */
export type DiskPlan = {
  readonly table: 'gpt' | 'dos'
  readonly lengthBytes: number
  readonly partitions: readonly [PartitionPlan, PartitionPlan]
  readonly raw: readonly RawImage[]
}

/** What goes onto it, and what was asked for. */
export type DiskWish = {
  readonly layout: BoardLayout
  /** Whether firmware looks for an EFI system partition. */
  readonly efi: boolean
  readonly bootBytes: number
  readonly persistBytes: number
  /** Of the boot partition; undefined: room for three releases as large as the one on it. */
  readonly bootPartitionBytes: number | undefined
  /** Of the whole image; undefined: as small as it can be, since persist grows on the device. */
  readonly totalBytes: number | undefined
}

/**
 * Lays out a disk: code for the boot ROM, a FAT partition BOOT with the releases, an ext4 partition persist, which is last so
 * that it can grow. Pure.
 * @throws FlotillaError NOT_ENOUGH_SPACE when what goes onto it does not fit into what was asked for
 */
export function planDiskImage(wish: DiskWish): DiskPlan {
  const { layout, efi } = wish
  const needed = roundUp(Math.max(MIN_BOOT_BYTES, wish.bootBytes * OVERHEAD))
  const bootLength = wish.bootPartitionBytes === undefined ? roundUp(needed * 3) : roundUp(wish.bootPartitionBytes)
  if (bootLength < needed) refuse('the boot partition', needed, bootLength)
  const persistStart = FIRST_PARTITION_BYTES + bootLength
  const persistNeeded = roundUp(Math.max(MIN_PERSIST_BYTES, wish.persistBytes * OVERHEAD + EXT4_BYTES))
  const least = persistStart + persistNeeded + TAIL_BYTES
  const total = wish.totalBytes === undefined ? least : Math.floor(wish.totalBytes / MIB) * MIB
  if (total < least) refuse('the image', least, total)
  const boot = {
    name: 'BOOT',
    fileSystem: 'vfat',
    type: layout.table === 'dos' ? 'c' : efi ? 'U' : 'EBD0A0A2-B9E5-4433-87C0-68B6B72699C7',
    startBytes: FIRST_PARTITION_BYTES,
    lengthBytes: bootLength,
  } as const
  const persist = {
    name: 'persist',
    fileSystem: 'ext4',
    type: 'L',
    startBytes: persistStart,
    lengthBytes: total - TAIL_BYTES - persistStart,
  } as const
  return { table: layout.table, lengthBytes: total, partitions: [boot, persist], raw: layout.raw }
}

/** Where a table ends that begins at the start of the medium: the code in a DOS table's first sector comes before it. */
export const TABLE_BYTES = { gpt: { fromBytes: 0, toBytes: 34 * 512 }, dos: { fromBytes: 440, toBytes: 512 } } as const

/**
 * Whether no raw image reaches into the table, the next one or the first partition: cut off there it would not boot, and say
 * nothing. Pure.
 * @throws FlotillaError BAD_INPUT naming both
 */
export function requireApart(
  list: readonly (RawImage & { readonly sizeBytes: number })[],
  table: BoardLayout['table'],
): void {
  const parts = list.map(({ file, atBytes, fromBytes, lengthBytes, sizeBytes }) => ({
    what: file,
    fromBytes: atBytes,
    toBytes: atBytes + Math.min(lengthBytes ?? Infinity, sizeBytes - fromBytes),
  }))
  const taken = [
    ...parts,
    { what: 'the partition table', ...TABLE_BYTES[table] },
    { what: 'the first partition', fromBytes: FIRST_PARTITION_BYTES, toBytes: Infinity },
  ].sort((a, b) => a.fromBytes - b.fromBytes)
  for (const [at, { what, toBytes }] of taken.entries()) {
    const next = taken[at + 1]
    if (next !== undefined && toBytes > next.fromBytes)
      throw new FlotillaError(
        'BAD_INPUT',
        `make image: ${what} reaches to byte ${toBytes}, where ${next.what} begins at ${next.fromBytes}`,
      )
  }
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / MIB) * MIB
}

function refuse(what: string, needed: number, given: number): never {
  throw new FlotillaError(
    'NOT_ENOUGH_SPACE',
    `plan image: ${what} needs ${formatBytes(needed)}, ${formatBytes(given)} were asked for`,
  )
}

/** The plan as a script for sfdisk. Pure. */
export function sfdiskScript({ table, partitions }: DiskPlan): string {
  const lines = partitions.map(({ name, type, startBytes, lengthBytes }, at) => {
    const marks = table === 'gpt' ? `, name=${name}` : at === 0 ? ', bootable' : ''
    return `start=${startBytes / 512}, size=${lengthBytes / 512}, type=${type}${marks}`
  })
  return `label: ${table}\nunit: sectors\n\n${lines.join('\n')}\n`
}
