import { createHash } from 'node:crypto'
import { stepUpdate, type UpdateInput, type UpdateState } from '../../agent/slots/update-machine.ts'
import { loadSlot, RecordBoot } from '../../agent/slots/bootloaders/record-boot.ts'
import { UpdateJournal } from '../../agent/slots/update-journal.ts'
import { type ChunkSource, writeRelease } from '../../agent/slots/write-release.ts'
import { ArtifactStore } from '../../agent/store/artifact-store.ts'
import { MemoryDisk } from '../../agent/store/memory-disk.ts'
import { BINARY_FORMAT, firstBootRecords } from '../../protocol/boot/boot-record.ts'
import { descriptionPath, placeOf, PROVEN_MARKER, SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
import { type ChunkIndex, encodeChunkIndex } from '../../protocol/chunks/chunk-index.ts'
import { type Artifact, encodeRelease, type Release, shortId } from '../../protocol/release/description.ts'
import { sampleDescription } from '../../protocol/release/sample-description.ts'

export type Image = {
  readonly release: Release
  readonly indexes: Map<string, ChunkIndex>
  readonly chunks: Map<string, Uint8Array[]>
}

/** A small release: a kernel and a root file system of a few chunks each, some shared between versions. */
function image(version: string, seq: number): Image {
  const indexes = new Map<string, ChunkIndex>()
  const chunks = new Map<string, Uint8Array[]>()
  const artifacts = (['kernel', 'rootfs'] as const).map((kind): Artifact => {
    const parts = [`${kind} shared`, `${kind} ${version} a`, `${kind} ${version} b`].map((text) =>
      Buffer.alloc(1_500, text),
    )
    const index = encodeChunkIndex(
      parts.map((bytes) => ({ sha256: createHash('sha256').update(bytes).digest(), lengthBytes: bytes.length })),
    )
    indexes.set(index.id, index)
    chunks.set(index.id, parts)
    return {
      name: kind === 'kernel' ? 'Image' : 'rootfs.squashfs',
      kind,
      lengthBytes: index.artifactBytes,
      sha256: createHash('sha256').update(Buffer.concat(parts)).digest('hex'),
      index: { lengthBytes: index.bytes.length, sha256: index.id },
    }
  })
  const release = encodeRelease(
    sampleDescription({ version, seq, artifacts, health: { deadlineSeconds: 10, tries: 3 } }),
  )
  return { release, indexes, chunks }
}

export const OLD = image('1', 1)
export const NEW = image('2', 2)
export const slotOf = (candidate: Image) => shortId(candidate.release.id)

/** A boot area and persist on one medium, with the old release proven, as the factory leaves them. */
export async function factory(): Promise<MemoryDisk> {
  const disk = new MemoryDisk()
  const write = async (path: string, bytes: Uint8Array) => {
    await disk.allocate(path, bytes.length)
    await disk.write(path, 0, bytes)
    await disk.flush(path)
  }
  for (const artifact of OLD.release.description.artifacts) {
    await write(placeOf(OLD.release.id, artifact).path, Buffer.concat(OLD.chunks.get(artifact.index.sha256) ?? []))
  }
  await write(descriptionPath(OLD.release.id), OLD.release.bytes)
  await write(`${SLOTS_DIRECTORY}/${slotOf(OLD)}/${PROVEN_MARKER}`, new Uint8Array())
  for (const { path, bytes } of firstBootRecords(slotOf(OLD))) await write(path, bytes)
  await disk.flushDirectory('.')
  return disk
}

/** What the firmware and the loader do: choose a slot; it must be whole, or the board is a brick. */
export async function powerUp(disk: MemoryDisk): Promise<Image> {
  const { slot } = await loadSlot(disk, BINARY_FORMAT)
  const found = [OLD, NEW].find((candidate) => slotOf(candidate) === slot)
  if (found === undefined) throw new Error(`loader chose ${slot}, which is no release`)
  for (const artifact of found.release.description.artifacts) {
    const bytes = await disk.read(placeOf(found.release.id, artifact).path, 0, artifact.lengthBytes + 1)
    const hash = createHash('sha256')
      .update(bytes ?? new Uint8Array())
      .digest('hex')
    if (hash !== artifact.sha256) throw new Error(`${slot}: ${artifact.name} is not whole`)
  }
  return found
}

/** The agent of one boot: goes on with the update as far as it gets; true when it asks for a reboot. */
export async function runAgent(disk: MemoryDisk, booted: Image): Promise<boolean> {
  const control = new RecordBoot(disk, slotOf(booted), BINARY_FORMAT)
  const journal = new UpdateJournal(disk)
  const store = new ArtifactStore(disk, () => Promise.resolve(undefined))
  for (const artifact of booted.release.description.artifacts) {
    const index = booted.indexes.get(artifact.index.sha256)
    if (index !== undefined) store.addWhole(index, disk, placeOf(booted.release.id, artifact).path)
  }
  const chunks: ChunkSource = {
    want: () => {},
    offer: () => {},
    foundLocally: () => {},
    lost: () => {},
    forget: () => {},
    completed: async (file) => {
      // The peers of this test hold everything and answer at once.
      for (let at = 0; at < file.index.count; at += 1) {
        const payload = NEW.chunks.get(file.index.id)?.[at]
        if (!file.have.has(at) && payload !== undefined) await store.storeChunk(file.index.id, at, payload)
      }
    },
  }
  let state: UpdateState = (await journal.load()).state
  let reboot = false
  const step = async (input: UpdateInput): Promise<void> => {
    const next = stepUpdate(state, input)
    if (next.state !== state)
      await journal.save({ state: next.state, baseline: { peers: [], engine: false, containers: [] } })
    state = next.state
    for (const effect of next.effects) {
      if (effect.type === 'fetch') {
        await writeRelease(
          NEW.release,
          NEW.indexes,
          {
            boot: disk,
            persist: disk,
            store,
            control,
            family: 'directory',
            trialBootSeconds: 60,
            chunks,
            onStep: () => {},
          },
          new AbortController().signal,
        )
        await step({ type: 'written', id: NEW.release.id })
      }
      if (effect.type === 'arm') await control.arm(effect.slot, effect.tries)
      if (effect.type === 'mark-good') await control.markGood(effect.slot)
      if (effect.type === 'mark-bad') await control.markBad(effect.slot)
      if (effect.type === 'judge-health')
        await step({ type: 'healthy', proven: { floor: { era: 1, seq: 0 }, dataVersion: 0 } })
      if (effect.type === 'then') await step(effect.input)
      if (effect.type === 'reboot') reboot = true
    }
  }
  const remaining = state.target === undefined ? undefined : await control.remaining(shortId(state.target.id))
  await step({
    type: 'started',
    slot: control.current(),
    good: await control.good(),
    remaining,
    counted: await control.counterMoves(),
    oneShot: control.oneShot,
    trace: '',
  })
  if (!reboot && booted === OLD)
    await step({ type: 'candidate', release: { id: NEW.release.id, version: '2', era: 1, seq: 2, tries: 3 } })
  if (!reboot) await step({ type: 'may-reboot' })
  return reboot
}

/** Boots again and again until the device rests. @returns what it rests on */
export async function live(disk: MemoryDisk): Promise<Image> {
  for (let boot = 0; boot < 10; boot += 1) {
    const booted = await powerUp(disk)
    if (!(await runAgent(disk, booted))) return booted
  }
  throw new Error('the device never came to rest')
}
