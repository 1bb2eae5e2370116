import { ARTIFACTS_DIRECTORY as ARTIFACTS, SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
import { parseRelease, type Release, shortId } from '../../protocol/release/description.ts'
import type { EventLog } from '../control/event-log.ts'
import type { ArtifactStore } from '../store/artifact-store.ts'
import type { Disk } from '../store/disk.ts'
import type { BootControl } from './bootloaders/boot-control.ts'
import { chooseGarbage, type FoundSlot } from './choose-garbage.ts'
import type { UpdateState } from './update-machine.ts'
import { readSlots } from './write-release.ts'

export type SlotKeeperDeps = {
  readonly boot: Disk
  readonly persist: Disk
  /** The description of a release that is being fetched; undefined while it is not here. */
  readonly describe: (id: string) => Promise<Release | undefined>
  readonly store: ArtifactStore
  readonly control: BootControl
  readonly log: EventLog
  readonly keepReleases: number
  /** A slot's files were removed: they are no longer offered. */
  readonly onForgotten: (artifact: string) => void
}

/** A slot with the release in it, as far as its description can be read. */
export type SequencedSlot = FoundSlot & { readonly release: Release | undefined }

/** Knows the slots on the boot area and removes those that nobody needs. */
export class SlotKeeper {
  readonly #deps: SlotKeeperDeps

  constructor(deps: SlotKeeperDeps) {
    this.#deps = deps
  }

  /** All slots; a release that failed here does not count as proven. */
  async slots(state: UpdateState): Promise<readonly SequencedSlot[]> {
    const failed = new Set(state.failed.map(({ id }) => shortId(id)))
    return (await readSlots(this.#deps.boot)).map(({ slot, release, proven }) => {
      let parsed: Release | undefined
      try {
        parsed = release === undefined ? undefined : parseRelease(release)
      } catch {
        parsed = undefined // half-written or damaged: garbage unless in use
      }
      const sequence = parsed?.description ?? { era: 0, seq: 0 }
      return { slot, proven: proven && !failed.has(slot), sequence, release: parsed }
    })
  }

  /** Removes what `chooseGarbage` names. Call only while nothing is armed or on trial. */
  async collectGarbage(state: UpdateState): Promise<void> {
    const { boot, store, control, log, keepReleases, onForgotten } = this.#deps
    const slots = await this.slots(state)
    const target = state.target === undefined ? undefined : shortId(state.target.id)
    const inUse = { running: control.current(), good: await control.good(), target }
    for (const slot of chooseGarbage(slots, inUse, keepReleases)) {
      for (const artifact of slots.find((found) => found.slot === slot)?.release?.description.artifacts ?? []) {
        for (const file of store.files(artifact.index.sha256)) {
          if (!file.path.startsWith(`${SLOTS_DIRECTORY}/${slot}/`)) continue
          await store.drop(file)
          if (store.files(artifact.index.sha256).length === 0) onForgotten(artifact.index.sha256)
        }
      }
      await control.invalidate(slot)
      await boot.remove(`${SLOTS_DIRECTORY}/${slot}`)
      await boot.flushDirectory(SLOTS_DIRECTORY)
      log.add('info', 'slot-removed', { slot })
    }
    await this.#collectArtifacts(state)
  }

  /** What lies on persist for releases that no slot has any more: container images and `skiff-core.yaml`. */
  async #collectArtifacts(state: UpdateState): Promise<void> {
    const { persist, store, log, onForgotten, describe } = this.#deps
    const names = await persist.list(ARTIFACTS)
    if (names.length === 0) return
    const target = state.target === undefined ? undefined : await describe(state.target.id)
    // What is being fetched is not known by its description yet: nothing is a leftover for certain.
    if (state.target !== undefined && target === undefined) return
    const slots = await this.slots(state)
    if (slots.some(({ release }) => release === undefined)) return // nobody knows what that one needs
    const releases = [...slots.map(({ release }) => release), target].filter((release) => release !== undefined)
    const needed = new Set(releases.flatMap(({ description }) => description.artifacts.map(({ sha256 }) => sha256)))
    for (const name of names) {
      if (needed.has(name)) continue
      const path = `${ARTIFACTS}/${name}`
      for (const file of store.filesAt(path)) {
        await store.drop(file)
        if (store.files(file.index.id).length === 0) onForgotten(file.index.id)
      }
      await persist.remove(path)
      log.add('info', 'artifact-removed', { artifact: name })
    }
    await persist.flushDirectory(ARTIFACTS)
  }
}
