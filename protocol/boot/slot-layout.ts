import { type Artifact, shortId } from '../release/description.ts'

/** Where slots lie in a boot area. */
export const SLOTS_DIRECTORY = 'releases'

/** Where what the loader does not need lies on persist, by content. */
export const ARTIFACTS_DIRECTORY = 'artifacts'

/** A marker in the slot of every release that was proven: what boots when both records are lost. */
export const PROVEN_MARKER = 'proven'

/** Where an artifact's file lies: beside the kernel in its slot, or on persist when the loader does not need it. */
export type Place = { readonly area: 'boot' | 'persist'; readonly path: string }

/** Where an artifact of a release goes. Pure. */
export function placeOf(releaseId: string, artifact: Artifact): Place {
  return artifact.kind === 'container-image' || artifact.kind === 'skiff-core'
    ? { area: 'persist', path: `${ARTIFACTS_DIRECTORY}/${artifact.sha256}` }
    : { area: 'boot', path: `${SLOTS_DIRECTORY}/${shortId(releaseId)}/${artifact.name}` }
}

/** The path of a slot's description. */
export function descriptionPath(releaseId: string): string {
  return `${SLOTS_DIRECTORY}/${shortId(releaseId)}/description.json`
}
