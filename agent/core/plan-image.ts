import type { ImageSpec } from '../../protocol/core/skiff-core.ts'

/** A place that an image can come from. */
export type ImageSource = 'release' | 'engine' | 'peers' | 'registry' | 'build'

/**
 * Where to look for an image, in this order. Pure. What the running release names is that image and no other; what somebody signed
 * comes before what only a registry says.
 * @param isReleased - the running release has an image of that name
 */
export function planImage(spec: ImageSpec | undefined, isReleased: boolean): readonly ImageSource[] {
  if (isReleased) return ['release']
  const build: readonly ImageSource[] = spec?.build === undefined ? [] : ['build']
  switch (spec?.pullPolicy ?? 'ifnotpresent') {
    case 'always':
      return ['registry', 'engine', 'peers', ...build]
    case 'ifnotpresent':
      return ['engine', 'peers', 'registry', ...build]
    case 'ifbuildfails':
      return ['engine', 'peers', ...build, 'registry']
    case 'never':
      return ['engine', 'peers', ...build]
  }
}
