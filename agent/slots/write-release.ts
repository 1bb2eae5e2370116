import type { ChunkIndex } from '../../protocol/chunks/chunk-index.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import type { Bitmap } from '../../protocol/exchange/bitmap.ts'
import type { StoredChunk } from '../../protocol/network/exchange-driver.ts'
import type { Artifact, Release } from '../../protocol/release/description.ts'
import type { ArtifactStore, HeldFile } from '../store/artifact-store.ts'
import { type Disk, readSmallFile, requireAsWritten } from '../store/disk.ts'
import type { BootControl } from './bootloaders/boot-control.ts'
import {
  type BootFamily,
  COMMAND_LINE_ARTIFACT,
  describeSlotBoot,
  MAX_COMMAND_LINE_BYTES,
  slotFiles,
} from '../../protocol/boot/slot-files.ts'
import { descriptionPath, type Place, placeOf, SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
import { planSlotWrite, type SlotStep } from './plan-slot-write.ts'
import { shortId } from '../../protocol/release/description.ts'

/** Where missing chunks come from. */
export type ChunkSource = {
  readonly want: (index: ChunkIndex, have: Bitmap, priority: number) => void
  /** Offers an artifact; one that is complete is wanted no more. */
  readonly offer: (index: ChunkIndex, have: Bitmap) => void
  readonly foundLocally: (chunks: readonly StoredChunk[]) => void
  readonly lost: (artifact: string, chunk: number) => void
  readonly forget: (artifact: string) => void
  /** Resolves when the file is complete. @throws when the signal aborts or the store failed */
  readonly completed: (file: HeldFile, signal: AbortSignal) => Promise<void>
}

export type WriteReleaseDeps = {
  readonly boot: Disk
  readonly persist: Disk
  readonly store: ArtifactStore
  readonly control: BootControl
  /** How the device boots, and how long a trial boot may take before its checks begin, seconds. */
  readonly family: BootFamily
  readonly trialBootSeconds: number
  readonly chunks: ChunkSource
  readonly onStep: (step: SlotStep) => void
}

/** Bytes that did not read back as written are fetched again this often before the medium is given up. */
const VERIFY_ROUNDS = 3

/**
 * Puts a release into its slot: runs the plan of `planSlotWrite`, goes on where an earlier run was cut off.
 * When it resolves, every byte was read back from the medium and matched; nothing names the slot for booting yet.
 * @throws FlotillaError NOT_ENOUGH_SPACE, DISK_FAILED, VERIFY_FAILED; the signal's reason when aborted
 */
export async function writeRelease(
  release: Release,
  indexes: ReadonlyMap<string, ChunkIndex>,
  deps: WriteReleaseDeps,
  signal: AbortSignal,
): Promise<void> {
  const here = await bytesInPlace(release, deps)
  const plan = planSlotWrite(release.id, release.description, (await deps.boot.freeBytes()) + here, deps.family)
  const files = new Map<string, HeldFile>()
  for (const step of plan) {
    signal.throwIfAborted()
    deps.onStep(step)
    await runStep(step, release, indexes, files, deps)
    // All files fill at once; the first step that needs them whole waits.
    if (step.type === 'write-description')
      await Promise.all([...files.values()].map((file) => deps.chunks.completed(file, signal)))
    if (step.type === 'verify') await verify(step.artifact, files, deps, signal)
  }
}

async function runStep(
  step: SlotStep,
  release: Release,
  indexes: ReadonlyMap<string, ChunkIndex>,
  files: Map<string, HeldFile>,
  deps: WriteReleaseDeps,
): Promise<void> {
  switch (step.type) {
    case 'invalidate':
      await deps.control.invalidate(step.slot)
      break
    case 'make-directory':
      await deps.boot.makeDirectory(step.path)
      break
    case 'complete': {
      const index = indexes.get(step.artifact.index.sha256)
      if (index === undefined)
        throw new FlotillaError('MISSING', `write ${step.artifact.name}: its chunk index is not here`)
      const file = await deps.store.begin(index, diskOf(step.place, deps), step.place.path)
      files.set(step.artifact.name, file)
      deps.chunks.foundLocally(await deps.store.fillFromDevice(file))
      deps.chunks.want(index, deps.store.holds(index), 0)
      break
    }
    case 'write-description':
      await deps.boot.allocate(step.path, release.bytes.length)
      await deps.boot.write(step.path, 0, release.bytes)
      await deps.boot.flush(step.path)
      break
    case 'flush-directory':
      await (step.area === 'boot' ? deps.boot : deps.persist).flushDirectory(step.path)
      break
    case 'verify':
      break
    case 'write-loader-files':
      await writeLoaderFiles(step.slot, release, deps)
      break
    case 'verify-description':
      await requireAsWritten(deps.boot, step.path, release.bytes)
  }
}

/** What the loader reads in the slot follows from the release: written once, flushed and read back like everything else. */
async function writeLoaderFiles(slot: string, release: Release, deps: WriteReleaseDeps): Promise<void> {
  const path = `${SLOTS_DIRECTORY}/${slot}/${COMMAND_LINE_ARTIFACT}`
  const commandLine = await readSmallFile(deps.boot, path, MAX_COMMAND_LINE_BYTES)
  const text = Buffer.from(commandLine ?? []).toString('latin1')
  const boot = describeSlotBoot(deps.family, slot, release.description, text, deps.trialBootSeconds)
  for (const { name, bytes } of slotFiles(deps.family, boot)) {
    const file = `${SLOTS_DIRECTORY}/${slot}/${name}`
    await deps.boot.allocate(file, bytes.length)
    await deps.boot.write(file, 0, bytes)
    await deps.boot.flush(file)
    await requireAsWritten(deps.boot, file, bytes)
  }
}

async function verify(
  artifact: Artifact,
  files: ReadonlyMap<string, HeldFile>,
  deps: WriteReleaseDeps,
  signal: AbortSignal,
): Promise<void> {
  let file = files.get(artifact.name)
  if (file === undefined) return
  for (let round = 0; round < VERIFY_ROUNDS; round += 1) {
    const wrong = await deps.store.verify(file, artifact.sha256)
    if (wrong.length === 0) return
    // One that an earlier release left is opened again to be mended.
    file = await deps.store.begin(file.index, file.disk, file.path)
    for (const chunk of wrong) deps.chunks.lost(file.index.id, chunk)
    deps.chunks.foundLocally(await deps.store.fillFromDevice(file))
    deps.chunks.want(file.index, deps.store.holds(file.index), 0)
    await deps.chunks.completed(file, signal)
  }
  throw new FlotillaError(
    'VERIFY_FAILED',
    `verify ${artifact.name}: chunks do not read back as written, ${VERIFY_ROUNDS} times; the medium is failing`,
  )
}

function diskOf(place: Place, deps: WriteReleaseDeps): Disk {
  return place.area === 'boot' ? deps.boot : deps.persist
}

/** Bytes of the release that its slot takes up already: an interrupted run must not count them twice. */
async function bytesInPlace(release: Release, deps: WriteReleaseDeps): Promise<number> {
  let sum = 0
  for (const artifact of release.description.artifacts) {
    const place = placeOf(release.id, artifact)
    if (place.area === 'boot') sum += Math.min((await deps.boot.length(place.path)) ?? 0, artifact.lengthBytes)
  }
  return sum
}

/** A release as it stands in a slot, as far as its description can be read. */
export type SlotContent = { readonly slot: string; readonly release: Uint8Array | undefined; readonly proven: boolean }

/** Lists the slots of a boot area. */
export async function readSlots(boot: Disk): Promise<readonly SlotContent[]> {
  const slots: SlotContent[] = []
  for (const slot of await boot.list(SLOTS_DIRECTORY)) {
    const length = await boot.length(descriptionPath(slot))
    const release =
      length === undefined || length > 65_536 ? undefined : await boot.read(descriptionPath(slot), 0, length)
    slots.push({
      slot: shortId(slot),
      release,
      proven: (await boot.length(`${SLOTS_DIRECTORY}/${slot}/proven`)) !== undefined,
    })
  }
  return slots
}
