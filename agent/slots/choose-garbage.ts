import { compareSequence, type Sequence } from '../../protocol/release/judge-install.ts'

/** A slot as found on the boot area; `proven` is false for a release that failed here later. */
export type FoundSlot = { readonly slot: string; readonly proven: boolean; readonly sequence: Sequence }

/**
 * The slots that may be removed: never the one that runs, the one that boots, the one being written or tried, nor the
 * `keepProven` newest other proven ones. Only called while nothing is on trial. Pure.
 * @param keepProven - proven releases kept besides the running one, at least 1
 */
export function chooseGarbage(
  slots: readonly FoundSlot[],
  inUse: { readonly running: string; readonly good: string; readonly target: string | undefined },
  keepProven: number,
): readonly string[] {
  const used = new Set([inUse.running, inUse.good, inUse.target])
  const spare = slots
    .filter(({ slot, proven }) => proven && !used.has(slot))
    .sort((a, b) => compareSequence(b.sequence, a.sequence))
    .slice(0, Math.max(1, keepProven))
    .map(({ slot }) => slot)
  return slots.map(({ slot }) => slot).filter((slot) => !used.has(slot) && !spare.includes(slot))
}
