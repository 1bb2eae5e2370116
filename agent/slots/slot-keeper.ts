import { SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
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
  }
}
