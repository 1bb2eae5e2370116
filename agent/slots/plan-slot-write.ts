import { type BootFamily, readsSlotFiles } from '../../protocol/boot/slot-files.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import { parentOf } from '../store/disk.ts'
import { type Artifact, type ReleaseDescription, shortId } from '../../protocol/release/description.ts'
import { descriptionPath, type Place, placeOf, SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'

/** One step of putting a release into a slot. */
export type SlotStep =
  | { readonly type: 'invalidate'; readonly slot: string }
  | { readonly type: 'make-directory'; readonly path: string }
  | { readonly type: 'complete'; readonly artifact: Artifact; readonly place: Place }
  | { readonly type: 'write-description'; readonly path: string }
  | { readonly type: 'write-loader-files'; readonly slot: string }
  | { readonly type: 'flush-directory'; readonly area: Place['area']; readonly path: string }
  | { readonly type: 'verify'; readonly artifact: Artifact; readonly place: Place }
  | { readonly type: 'verify-description'; readonly path: string }

/** Room that is left free on the boot area whatever is installed: the loader and a careful person need some. */
export const BOOT_RESERVE_BYTES = 4 * 2 ** 20

/**
 * Orders the writes that put a release into a free slot. Pure.
 * After a power cut between any two steps the proven release still boots: no boot entry names the new files before
 * all of them were flushed, read back and matched; arming is a separate step after this plan.
 * @param family - says whether a loader needs files in the slot
 * @param freeBytes - free space of the boot area, not counting files of this release that are there already
 * @throws FlotillaError NOT_ENOUGH_SPACE with both numbers, before anything is written
 * @see protocol/spec/slots.md, "Order of writes"
 */
export function planSlotWrite(
  releaseId: string,
  release: ReleaseDescription,
  freeBytes: number,
  family: BootFamily = 'directory',
): readonly SlotStep[] {
  const places = release.artifacts.map((artifact) => ({ artifact, place: placeOf(releaseId, artifact) }))
  const neededBytes = places
    .filter(({ place }) => place.area === 'boot')
    .reduce((sum, { artifact }) => sum + artifact.lengthBytes, BOOT_RESERVE_BYTES)
  if (neededBytes > freeBytes) {
    throw new FlotillaError(
      'NOT_ENOUGH_SPACE',
      `write release ${shortId(releaseId)}: needs ${mebibytes(neededBytes)} MiB, the boot area has ${mebibytes(freeBytes)} MiB free; free space or set keepReleases: 1`,
      { details: { neededBytes, freeBytes } },
    )
  }
  const slot = `${SLOTS_DIRECTORY}/${shortId(releaseId)}`
  const description = descriptionPath(releaseId)
  return [
    { type: 'invalidate', slot: shortId(releaseId) },
    { type: 'make-directory', path: slot },
    ...places.map(({ artifact, place }): SlotStep => ({ type: 'complete', artifact, place })),
    { type: 'write-description', path: description },
    ...(readsSlotFiles(family) ? [{ type: 'write-loader-files', slot: shortId(releaseId) } as const] : []),
    ...directoriesOf([...places.map(({ place }) => place), { area: 'boot', path: description }]),
    ...places.map(({ artifact, place }): SlotStep => ({ type: 'verify', artifact, place })),
    { type: 'verify-description', path: description },
  ]
}

/** Every directory that a new name stands in, deepest first. */
function directoriesOf(places: readonly Place[]): readonly SlotStep[] {
  const found = new Map<string, Extract<SlotStep, { type: 'flush-directory' }>>()
  for (const { area, path } of places) {
    for (let at = parentOf(path); at !== '.'; at = parentOf(at)) {
      found.set(`${area} ${at}`, { type: 'flush-directory', area, path: at })
    }
  }
  return [...found.values()].sort((a, b) => b.path.split('/').length - a.path.split('/').length)
}

function mebibytes(bytes: number): number {
  return Math.ceil(bytes / 2 ** 20)
}
