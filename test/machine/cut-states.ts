import { createHash } from 'node:crypto'
import { chooseBoot, newestRecord, parseBootRecord } from '../../protocol/boot/boot-record.ts'
import { GRUB_FORMAT, UBOOT_FORMAT } from '../../protocol/boot/environment-record.ts'
import {
  ENTRIES_DIRECTORY,
  GOOD_ENTRIES,
  newestEntry,
  parseLoaderEntry,
  parseTrialEntryName,
} from '../../protocol/boot/loader-entry.ts'
import { EXTLINUX_FORMAT } from '../../protocol/boot/pointer-files.ts'
import { SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
import { FatReader } from './fat-reader.ts'
import type { LoaderFamily } from './virtual-board.ts'
import type { DiskOperation, DiskWrite } from './write-log.ts'

/** What a loader would start, and what it falls back to. */
export type Choice = { readonly slot: string; readonly good: string }

/** What is wrong with a disk after a cut; and how many were looked at, by kind. */
export type CutReport = {
  readonly counts: { prefix: number; torn: number; lost: number }
  /** What the loader would have started in these states. */
  readonly chosen: ReadonlyMap<string, number>
  readonly problems: readonly string[]
}

const SECTOR = 512
/** Epochs with so few unflushed writes are tried with every subset of them. */
const ALL_SUBSETS_UP_TO = 6
const RANDOM_SUBSETS = 12

/** The choice of the real loaders, which `loaders.test.ts` starts, as a function of the files. */
export function chooseFrom(family: LoaderFamily, fat: Pick<FatReader, 'read' | 'list'>): Choice | undefined {
  if (family === 'systemd-boot') return chooseEntry(fat)
  if (family === 'extlinux') return chooseLabel(fat)
  const format = family === 'grub' ? GRUB_FORMAT : UBOOT_FORMAT
  const copies = ['select.0', 'select.1'].map((path) => format.parse(fat.read(path)))
  const { record } = newestRecord(copies, format.sequences)
  const good = record?.good ?? format.parse(fat.read('select.rescue'))?.good
  if (good === undefined) return undefined
  return { slot: record === undefined ? good : chooseBoot(record).slot, good }
}

/** The label that counts is started; its initramfs looks at the record. */
function chooseLabel(fat: Pick<FatReader, 'read' | 'list'>): Choice | undefined {
  const list = fat.read('extlinux/extlinux.conf')
  const place = EXTLINUX_FORMAT.parseSwitch(list)
  if (list === undefined || place === undefined) return undefined
  const { offset, lengthBytes } = EXTLINUX_FORMAT.placeOf(place)
  const good = EXTLINUX_FORMAT.parsePlace(list.subarray(offset, offset + lengthBytes))
  if (good === undefined) return undefined
  const { record } = newestRecord(['select.0', 'select.1'].map((path) => parseBootRecord(fat.read(path))))
  const isTried = record?.trial !== undefined && record.tries > 0
  return { slot: isTried ? (record.trial ?? good) : good, good }
}

function chooseEntry(fat: Pick<FatReader, 'read' | 'list'>): Choice | undefined {
  const entryAt = (name: string) => parseLoaderEntry(fat.read(`${ENTRIES_DIRECTORY}/${name}`))
  const best = newestEntry(GOOD_ENTRIES.flatMap((name) => entryAt(name) ?? []))
  const trial = fat
    .list(ENTRIES_DIRECTORY)
    .filter((name) => (parseTrialEntryName(name)?.left ?? 0) > 0)
    .map(entryAt)
    .find((entry) => entry?.enabled === true)
  return best === undefined ? undefined : { slot: trial?.slot ?? best.slot, good: best.slot }
}

/** What makes a slot whole: its files by name, with their content. */
export type WholeSlots = ReadonlyMap<string, ReadonlyMap<string, Buffer>>

/** The files of slots on a disk that is known to be good. */
export function readSlotsOf(partition: Buffer, slots: readonly string[]): WholeSlots {
  const fat = new FatReader(partition)
  return new Map(
    slots.map((slot) => {
      const path = `${SLOTS_DIRECTORY}/${slot}`
      const description = JSON.parse(fat.read(`${path}/description.json`)?.toString() ?? '{}') as {
        artifacts?: { name: string; sha256: string }[]
      }
      const files = fat.list(path).filter((name) => name !== '.' && name !== '..' && name !== 'proven')
      for (const { name, sha256 } of description.artifacts ?? []) {
        const content = fat.read(`${path}/${name}`)
        if (content === undefined || createHash('sha256').update(content).digest('hex') !== sha256)
          throw new Error(`${path}/${name} is not whole on the disk that should be good`)
      }
      return [slot, new Map(files.map((name) => [name, Buffer.from(fat.read(`${path}/${name}`) ?? [])]))] as const
    }),
  )
}

/**
 * Rebuilds what the disk can be after a power cut at every write, and judges each: exactly one whole release is started, and what it falls
 * back to is whole too. Looked at: the disk after every write; with only some sectors of the last write; and, of the writes since
 * the last flush, every one missing, every one alone, and subsets of them, all where they are few.
 * @param partition - the boot partition before the first operation; is changed
 * @param operations - with places counted from the start of the partition
 * @param singles - how many of the writes between two flushes are left out, or stand alone, at most
 */
export function judgeCuts(
  family: LoaderFamily,
  partition: Buffer,
  operations: readonly DiskOperation[],
  whole: WholeSlots,
  singles: number,
): CutReport {
  const fat = new FatReader(partition)
  const steady = steadyFiles(fat, operations, whole)
  const counts = { prefix: 0, torn: 0, lost: 0 }
  const chosen = new Map<string, number>()
  const problems: string[] = []
  const judge = (kind: keyof typeof counts, where: string) => {
    counts[kind] += 1
    const choice = chooseFrom(family, fat)
    chosen.set(choice?.slot ?? 'none', (chosen.get(choice?.slot ?? 'none') ?? 0) + 1)
    const broken =
      choice === undefined
        ? 'no slot'
        : (brokenIn(fat, choice.slot, whole, steady) ?? brokenIn(fat, choice.good, whole, steady))
    if (broken !== undefined) problems.push(`${kind} ${where}: ${broken}`)
  }
  let epoch: (DiskWrite & { readonly undo: () => void })[] = []
  for (const [at, operation] of operations.entries()) {
    if (operation !== 'flush') {
      for (const sectors of tornLengths(operation.bytes.length / SECTOR)) {
        const undo = write(partition, { at: operation.at, bytes: operation.bytes.subarray(0, sectors * SECTOR) })
        judge('torn', `${at} after ${sectors} sectors`)
        undo()
      }
      epoch.push({ ...operation, undo: write(partition, operation) })
      judge('prefix', String(at))
      continue
    }
    // Back to what was on the medium at the last flush, and from there with some of the writes.
    for (const { undo } of epoch.toReversed()) undo()
    for (const subset of subsetsOf(epoch.length, singles)) {
      const undone = subset.flatMap((index) => (epoch[index] === undefined ? [] : [write(partition, epoch[index])]))
      judge('lost', `${at} with ${subset.length} of ${epoch.length} writes (${subset.slice(0, 8).join(',')})`)
      for (const undo of undone.toReversed()) undo()
    }
    for (const each of epoch) write(partition, each)
    epoch = []
  }
  return { counts, chosen, problems }
}

function tornLengths(sectors: number): readonly number[] {
  return [...new Set([1, sectors >> 1, sectors - 1])].filter((count) => count > 0 && count < sectors)
}

/** Indexes of the writes that reached the medium. */
function subsetsOf(count: number, singles: number): readonly (readonly number[])[] {
  const indexes = Array.from({ length: count }, (_, index) => index)
  if (count === 0) return []
  if (count <= ALL_SUBSETS_UP_TO)
    return Array.from({ length: 2 ** count - 1 }, (_, mask) => indexes.filter((index) => ((mask >> index) & 1) === 1))
  const random = randomFrom(count)
  // Of the thousands that fill a file each stands for its neighbours.
  const step = Math.ceil(count / singles)
  const single = indexes.filter((index) => index % step === 0 || index === count - 1)
  return [
    [],
    ...single.map((index) => [index]),
    ...single.map((index) => indexes.filter((other) => other !== index)),
    ...Array.from({ length: RANDOM_SUBSETS }, () => indexes.filter(() => random() < 0.5)),
  ]
}

/** The same in every run. */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}

function write(partition: Buffer, { at, bytes }: DiskWrite): () => void {
  const before = Buffer.from(partition.subarray(at, at + bytes.length))
  bytes.copy(partition, at)
  return () => void before.copy(partition, at)
}

/** Files that are whole before the first operation, and whose content none of them touches: where each lies. */
function steadyFiles(
  fat: FatReader,
  operations: readonly DiskOperation[],
  whole: WholeSlots,
): ReadonlyMap<string, string> {
  const steady = new Map<string, string>()
  for (const [slot, files] of whole)
    for (const [name, content] of files) {
      const path = `${SLOTS_DIRECTORY}/${slot}/${name}`
      const runs = fat.runs(path)
      if (runs === undefined || fat.read(path)?.equals(content) !== true) continue
      const isTouched = operations.some(
        (operation) =>
          operation !== 'flush' &&
          runs.some(
            ({ at, lengthBytes }) => operation.at < at + lengthBytes && at < operation.at + operation.bytes.length,
          ),
      )
      if (!isTouched) steady.set(path, `${content.length} ${JSON.stringify(runs)}`)
    }
  return steady
}

function brokenIn(
  fat: FatReader,
  slot: string,
  whole: WholeSlots,
  steady: ReadonlyMap<string, string>,
): string | undefined {
  const files = whole.get(slot)
  if (files === undefined) return `${slot} is not one of the releases`
  for (const [name, content] of files) {
    const path = `${SLOTS_DIRECTORY}/${slot}/${name}`
    // Where nothing was written there is nothing to compare, as long as the name still leads there.
    if (steady.get(path) === `${fat.lengthOf(path)} ${JSON.stringify(fat.runs(path))}`) continue
    const found = fat.read(path)
    if (found === undefined || !found.equals(content)) return `${slot}/${name} is not whole`
  }
  return undefined
}
