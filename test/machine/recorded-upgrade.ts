import { closeSync, openSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { shortId } from '../../protocol/release/description.ts'
import { bootExtent, checkBootPartition, copyImage, type Partition } from './boot-files.ts'
import { type CutReport, judgeCuts, readSlotsOf } from './cut-states.ts'
import type { LoaderFamily } from './virtual-board.ts'
import type { VirtualFleet } from './virtual-fleet.ts'
import { type DiskOperation, readWriteLog } from './write-log.ts'

type Extent = Pick<Partition, 'start' | 'length'>

/** Everything that a device wrote during one upgrade, and its disk before and after. */
export class RecordedUpgrade {
  readonly operations: readonly DiskOperation[]
  readonly #before: string
  readonly #after: string
  readonly #directory: string

  private constructor(before: string, after: string, directory: string, operations: readonly DiskOperation[]) {
    this.#before = before
    this.#after = after
    this.#directory = directory
    this.operations = operations
  }

  /**
   * Switches a device on and records what it writes.
   * @returns what ends the recording; call it when the device is proven, and on a disk that nothing else writes to
   */
  static begin(fleet: VirtualFleet, name: string): () => Promise<RecordedUpgrade> {
    const { disk } = fleet.device(name)
    const before = join(fleet.directory, `${name}-before.img`)
    const log = join(fleet.directory, `${name}-writes.log`)
    copyImage(disk, before)
    writeFileSync(log, '')
    fleet.start(name, { writeLog: log })
    return async () => {
      const { machine } = fleet.device(name)
      await machine?.end()
      await fleet.cut(name)
      return new RecordedUpgrade(before, disk, fleet.directory, readWriteLog(log))
    }
  }

  /** Judges every power cut on the boot partition. @param from, to - ids of the releases before and after */
  judge(family: LoaderFamily, from: string, to: string, singles: number): CutReport {
    const extent = bootExtent(this.#before)
    const before = readExtent(this.#before, extent)
    const [old, next] = [shortId(from), shortId(to)]
    const whole = new Map([...readSlotsOf(before, [old]), ...readSlotsOf(readExtent(this.#after, extent), [next])])
    return judgeCuts(family, before, within(this.operations, extent), whole, singles)
  }

  /** The places in the record where the boot partition was written, to be cut at. */
  bootWrites(): readonly number[] {
    const { start, length } = bootExtent(this.#before)
    return this.operations.flatMap((operation, at) =>
      operation !== 'flush' && operation.at >= start && operation.at < start + length ? [at] : [],
    )
  }

  /**
   * The disk as it is when the power fails right after an operation. @param keepsUnflushed - whether what was written since
   * the last flush is on the medium; `false` for a cache that forgets all of it
   */
  diskAfter(operation: number, keepsUnflushed: boolean, file: string): void {
    copyImage(this.#before, file)
    const done = this.operations.slice(0, operation + 1)
    const kept = keepsUnflushed ? done : done.slice(0, done.lastIndexOf('flush') + 1)
    const disk = openSync(file, 'r+')
    for (const each of kept) if (each !== 'flush') writeSync(disk, each.bytes, 0, each.bytes.length, each.at)
    closeSync(disk)
  }

  /** What fsck finds after a cut that it does not repair by itself; empty when all is well. */
  problemsAfterRepair(operation: number, keepsUnflushed: boolean): string {
    const file = join(this.#directory, 'cut.img')
    this.diskAfter(operation, keepsUnflushed, file)
    const problem = checkBootPartition(file, this.#directory, true)
    rmSync(file)
    return problem
  }

  /** The same writes in the opposite order, which no device may do: what judges must see it. */
  reversed(): RecordedUpgrade {
    return new RecordedUpgrade(this.#before, this.#after, this.#directory, this.operations.toReversed())
  }

  /** Bytes that were written to the boot partition, and to all others. */
  bytesWritten(): { readonly boot: number; readonly rest: number } {
    const sum = (operations: readonly DiskOperation[]) =>
      operations.reduce((bytes, each) => bytes + (each === 'flush' ? 0 : each.bytes.length), 0)
    const boot = sum(within(this.operations, bootExtent(this.#before)))
    return { boot, rest: sum(this.operations) - boot }
  }
}

function within(operations: readonly DiskOperation[], { start, length }: Extent): readonly DiskOperation[] {
  return operations.flatMap((operation): readonly DiskOperation[] => {
    if (operation === 'flush') return [operation]
    const { at, bytes } = operation
    return at >= start && at < start + length ? [{ at: at - start, bytes }] : []
  })
}

function readExtent(image: string, { start, length }: Extent): Buffer {
  const bytes = Buffer.alloc(length)
  const file = openSync(image, 'r')
  readSync(file, bytes, 0, length, start)
  closeSync(file)
  return bytes
}
