import type { Release } from '../../protocol/release/description.ts'
import { compareSequence, readsData, type Sequence } from '../../protocol/release/judge-install.ts'
import type { FoundSlot } from './choose-garbage.ts'

/**
 * The slot a device goes back to: the newest other proven release that is not below the floor and whose containers read
 * the data as it is now. Pure.
 * @returns the slot, or why there is none
 */
export function chooseRollback(
  slots: readonly (FoundSlot & { readonly release: Release | undefined })[],
  running: string,
  floor: Sequence,
  dataVersion: number,
): { readonly slot: string } | { readonly reason: string } {
  const others = slots
    .filter(({ slot, proven }) => proven && slot !== running)
    .sort((a, b) => compareSequence(b.sequence, a.sequence))
  const allowed = others.filter(({ sequence }) => compareSequence(sequence, floor) >= 0)
  const readable = allowed.find(({ release }) => release !== undefined && readsData(release.description, dataVersion))
  if (readable !== undefined) return { slot: readable.slot }
  if (others.length === 0) return { reason: 'no other proven release is on this device' }
  if (allowed.length === 0) return { reason: `releases before seq ${floor.seq} are refused for good (minSeq)` }
  return { reason: `the containers' data has format ${dataVersion}, which no earlier release here reads` }
}
