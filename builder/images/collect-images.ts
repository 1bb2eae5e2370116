import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { COMMAND_LINE_ARTIFACT, startsKernel } from '../../protocol/boot/slot-files.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import type { ArtifactKind } from '../../protocol/release/description.ts'
import { MANIFEST, readManifest } from './image-manifest.ts'

/** A file of an image directory and what it is for. */
export type CollectedImage = { readonly name: string; readonly kind: ArtifactKind; readonly path: string }

const RULES: readonly (readonly [RegExp, ArtifactKind])[] = [
  [/^rootfs\.squashfs$/, 'rootfs'],
  [/^modules\.squashfs$/, 'modules'],
  [/^(Image|zImage|bzImage|uImage|vmlinux|vmlinuz|kernel)([._-].*)?$/, 'kernel'],
  [/^(initrd|initramfs)([._-].*)?$/, 'initramfs'],
  [/\.dtbo?$/, 'dtb'],
  [/^containers\/[^/]+\.tar(\.(gz|zst))?$/, 'container-image'],
  [/^skiff-core\.ya?ml$/, 'skiff-core'],
]

/**
 * What a build left in a directory, sorted by name: Buildroot's `images/` or any other. The kind follows from the
 * name; whatever is not known is a boot file. A manifest beside them says which of them count,
 * and whether the board starts a kernel.
 * @throws FlotillaError BAD_INPUT without a kernel where one is started, without a root file system, or for something that is not a plain file
 */
export function collectImages(directory: string): readonly CollectedImage[] {
  const manifest = readManifest(directory)
  const names = manifest === undefined ? walk(directory, '') : [...manifest.files].sort()
  const missing = names.filter((name) => !existsSync(join(directory, name)))
  if (missing.length > 0)
    throw new FlotillaError(
      'BAD_INPUT',
      `collect images in ${directory}: ${MANIFEST} names ${missing[0]}, which is not there`,
    )
  const images = names.map((name) => ({ name, kind: kindOf(name), path: join(directory, name) }))
  const family = manifest?.family
  const needed = family === undefined || startsKernel(family) ? (['kernel', 'rootfs'] as const) : (['rootfs'] as const)
  for (const kind of needed) {
    if (!images.some((image) => image.kind === kind)) {
      throw new FlotillaError(
        'BAD_INPUT',
        `collect images in ${directory}: no ${kind} is there (${kind === 'rootfs' ? 'rootfs.squashfs' : 'Image, zImage, bzImage or vmlinuz'}); is it the directory that the build left its images in?`,
      )
    }
  }
  return images
}

/**
 * The files of a build's output that boot together: kernel, root, modules, device trees, initramfs. What else lies there
 * (boot loaders, other forms of the same root) goes onto a medium once, or nowhere.
 */
export function bootTogether(directory: string): readonly string[] {
  // What lies deeper belongs to a boot loader, such as the overlays of the Pi's firmware; device trees may be below a vendor.
  const ours = (name: string) => !name.includes('/') || /^[\w-]+\/[^/]+\.dtb$/.test(name)
  return walk(directory, '').filter(
    (name) =>
      (kindOf(name) !== 'boot' || name === COMMAND_LINE_ARTIFACT) &&
      ours(name) &&
      !/^(efi-part|rpi-firmware)\//.test(name),
  )
}

function walk(root: string, prefix: string): string[] {
  let names: string[]
  try {
    names = readdirSync(join(root, prefix)).sort()
  } catch (cause) {
    throw new FlotillaError('BAD_INPUT', `collect images in ${root}: ${messageOf(cause)}`, { cause })
  }
  return names.flatMap((name) => {
    const path = prefix === '' ? name : `${prefix}/${name}`
    const info = statSync(join(root, path))
    if (info.isDirectory()) return walk(root, path)
    if (!info.isFile())
      throw new FlotillaError('BAD_INPUT', `collect images: ${path} is neither a file nor a directory`)
    return [path]
  })
}

function kindOf(name: string): ArtifactKind {
  return RULES.find(([pattern]) => pattern.test(name))?.[1] ?? 'boot'
}
