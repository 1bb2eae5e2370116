import { FlotillaError } from '../../protocol/errors.ts'
import { formatBytes } from '../../protocol/terminal/print.ts'
import { FIRST_PARTITION_BYTES } from '../layers/board.ts'
import { TABLE_BYTES } from './plan-disk-image.ts'

/** A partition table as it was found: of an image, or on a medium. */
export type DiskTable = {
  readonly path: string
  readonly label: string
  readonly partitions: readonly FoundPartition[]
}
/** @property name - the label of its file system, empty when there is none */
export type FoundPartition = { readonly startBytes: number; readonly lengthBytes: number; readonly name: string }

/** Bytes from … to (not with it), at the same place in the image and on the medium. */
export type ByteRange = { readonly fromBytes: number; readonly toBytes: number }

/**
 * What of an image goes onto a medium so that its persist partition stays as it is: the code around the partition table, and the
 * boot partition. Pure.
 * @throws FlotillaError BAD_INPUT when the medium is laid out otherwise, NOT_ENOUGH_SPACE when its boot partition is too small
 */
export function planInstall(image: DiskTable, medium: DiskTable): readonly ByteRange[] {
  const wanted = partitionsOf(image)
  const found = partitionsOf(medium)
  if (image.label !== medium.label)
    refuse(medium, `it has a table of kind ${medium.label}, the image one of kind ${image.label}`)
  if (found.boot.startBytes !== wanted.boot.startBytes)
    refuse(
      medium,
      `its boot partition begins at ${found.boot.startBytes}, that of the image at ${wanted.boot.startBytes}`,
    )
  if (found.persist.startBytes < found.boot.startBytes + found.boot.lengthBytes)
    refuse(medium, 'its persist partition does not come after the boot partition')
  if (found.boot.lengthBytes < wanted.boot.lengthBytes)
    throw new FlotillaError(
      'NOT_ENOUGH_SPACE',
      `install on ${medium.path}: its boot partition has ${formatBytes(found.boot.lengthBytes)}, that of the image ${formatBytes(wanted.boot.lengthBytes)}; make the image with --boot-size ${Math.floor(found.boot.lengthBytes / 2 ** 20)}`,
    )
  const table = TABLE_BYTES[image.label === 'gpt' ? 'gpt' : 'dos']
  const { startBytes, lengthBytes } = wanted.boot
  return [
    { fromBytes: 0, toBytes: table.fromBytes },
    { fromBytes: table.toBytes, toBytes: FIRST_PARTITION_BYTES },
    { fromBytes: startBytes, toBytes: startBytes + lengthBytes },
  ].filter(({ fromBytes, toBytes }) => toBytes > fromBytes)
}

function partitionsOf(table: DiskTable): { readonly boot: FoundPartition; readonly persist: FoundPartition } {
  const boot = table.partitions.find(({ name }) => name === 'BOOT')
  const persist = table.partitions.find(({ name }) => name === 'persist')
  if (boot === undefined || persist === undefined)
    return refuse(table, 'it has no file systems labelled BOOT and persist; flotilla image write lays a medium out')
  if (boot.startBytes < FIRST_PARTITION_BYTES) refuse(table, 'its boot partition begins where boot loaders lie')
  return { boot, persist }
}

function refuse({ path }: DiskTable, why: string): never {
  throw new FlotillaError('BAD_INPUT', `install on or from ${path}: ${why}`)
}
