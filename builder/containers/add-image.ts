import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import Docker from 'dockerode'
import { chunkHash } from '../../protocol/chunks/chunk-index.ts'
import { withTag } from '../../protocol/core/image-name.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import type { ContainerImage } from '../../protocol/release/description.ts'
import { readManifest, writeManifest } from '../images/image-manifest.ts'
import { indexArtifact } from '../release/index-artifact.ts'
import { describeImage, normalizeImage } from './image-archive.ts'

/** An image that was put among the images of a release. */
export type AddedImage = ContainerImage & {
  readonly file: string
  readonly lengthBytes: number
  /** What a device must fetch that has the version that was there before, and the other images; all of it for a new one. */
  readonly fetchBytes: number
  readonly isNew: boolean
}

const DIRECTORY = 'containers'

/** The archive of an image, relative to the images of a release: `containers/<name>.tar`, whatever its tag. */
function fileOf(name: string): string {
  const plain = withTag(name)
    .replace(/:[^:/]*$/, '')
    .replaceAll(/[^\w.-]+/g, '_')
  return `${DIRECTORY}/${plain}.tar`
}

/**
 * Puts an image among the images of the next release.
 * @param source - what opens the archive: a file, or the engine
 * @throws FlotillaError BAD_INPUT
 */
export async function addImage(
  images: string,
  source: () => Promise<NodeJS.ReadableStream>,
  name: string | undefined,
): Promise<AddedImage> {
  if (!existsSync(images))
    throw new FlotillaError(
      'BAD_INPUT',
      `add image: ${images} is not there; is it the directory of the release's images?`,
    )
  mkdirSync(join(images, DIRECTORY), { recursive: true })
  const fresh = join(images, DIRECTORY, '.added.tar')
  const image = await normalizeImage(await source(), fresh, name)
  const relative = fileOf(image.name)
  const file = join(images, relative)
  const held = new Set<string>()
  const isNew = !existsSync(file)
  for (const relativePath of archives(images))
    for (const hash of hashesOf(join(images, relativePath)).keys()) held.add(hash)
  const hashes = hashesOf(fresh)
  let fetchBytes = 0
  let lengthBytes = 0
  for (const [hash, { length, times }] of hashes) {
    lengthBytes += length * times
    if (!held.has(hash)) fetchBytes += length
  }
  renameSync(fresh, file)
  const manifest = readManifest(images)
  if (manifest !== undefined && !manifest.files.includes(relative))
    writeManifest(images, { ...manifest, files: [...manifest.files, relative].sort() })
  return { ...image, file, lengthBytes, fetchBytes, isNew }
}

/** The images that are among the images of a release. @throws FlotillaError BAD_INPUT for an archive that cannot be read */
export async function listImages(images: string): Promise<ReadonlyMap<string, ContainerImage>> {
  const found = new Map<string, ContainerImage>()
  for (const relative of archives(images)) found.set(relative, await describeImage(join(images, relative)))
  const names = [...found.values()].map(({ name, architecture }) => `${name} for ${architecture}`)
  const twice = names.find((name, at) => names.indexOf(name) !== at)
  if (twice !== undefined) throw new FlotillaError('BAD_INPUT', `images in ${images}: ${twice} is there twice`)
  return found
}

/** @throws FlotillaError NOT_FOUND */
export function removeImage(images: string, name: string): void {
  const relative = fileOf(name)
  const file = join(images, relative)
  if (!existsSync(file)) throw new FlotillaError('NOT_FOUND', `remove image ${name}: ${file} is not there`)
  rmSync(file)
  const manifest = readManifest(images)
  if (manifest !== undefined)
    writeManifest(images, { ...manifest, files: manifest.files.filter((one) => one !== relative) })
}

/** An image of the engine on this workstation. @throws FlotillaError NOT_FOUND, UNREACHABLE */
export async function saveFromEngine(name: string): Promise<NodeJS.ReadableStream> {
  return engineCall(`save image ${name}`, () => new Docker().getImage(name).get())
}

/** Builds an image from a directory with a Dockerfile. @throws FlotillaError BUILD_FAILED with the last lines */
export async function buildInEngine(
  directory: string,
  name: string,
  buildArgs: Readonly<Record<string, string>>,
  onLine: (line: string) => void,
): Promise<void> {
  if (!existsSync(join(directory, 'Dockerfile')))
    throw new FlotillaError('BAD_INPUT', `build ${name}: ${directory} has no Dockerfile`)
  const docker = new Docker()
  const tar = spawn('tar', ['-C', directory, '-c', '.'], { stdio: ['ignore', 'pipe', 'inherit'] })
  const options = { t: withTag(name), buildargs: { ...buildArgs }, rm: true, forcerm: true }
  const stream = await engineCall(`build ${name}`, () => docker.buildImage(tar.stdout, options))
  await new Promise<void>((resolve, reject) => {
    const fail = (why: unknown) => reject(new FlotillaError('BUILD_FAILED', `build ${name}: ${messageOf(why)}`))
    docker.modem.followProgress(
      stream,
      (error: unknown) => (error === null || error === undefined ? resolve() : fail(error)),
      (event: { stream?: string; status?: string; error?: string }) => {
        if (event.error !== undefined) return fail(event.error)
        const line = (event.stream ?? event.status ?? '').trim()
        if (line !== '') onLine(line)
      },
    )
  })
}

/**
 * Makes an image of a container as it is now; what its volumes hold is not in it.
 * @throws FlotillaError NOT_FOUND, UNREACHABLE
 */
export async function snapshotContainer(container: string, name: string): Promise<void> {
  const tagged = withTag(name)
  const colon = tagged.lastIndexOf(':')
  await engineCall(`snapshot ${container}`, () =>
    new Docker().getContainer(container).commit({
      repo: tagged.slice(0, colon),
      tag: tagged.slice(colon + 1),
      pause: true,
      comment: `snapshot of ${container}`,
    }),
  )
}

async function engineCall<T>(what: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (cause) {
    const isMissing = (cause as { statusCode?: number }).statusCode === 404
    const next = isMissing ? '' : '; is Docker running here, and DOCKER_HOST right?'
    throw new FlotillaError(isMissing ? 'NOT_FOUND' : 'UNREACHABLE', `${what}: ${messageOf(cause).trim()}${next}`, {
      cause,
    })
  }
}

/** Relative to the images. */
function archives(images: string): readonly string[] {
  const directory = join(images, DIRECTORY)
  if (!existsSync(directory)) return []
  return readdirSync(directory)
    .filter((name) => /^[^.].*\.tar(\.(gz|zst))?$/.test(name))
    .sort()
    .map((name) => `${DIRECTORY}/${name}`)
}

function hashesOf(path: string): ReadonlyMap<string, { readonly length: number; readonly times: number }> {
  const { index } = indexArtifact(path)
  const hashes = new Map<string, { length: number; times: number }>()
  for (let at = 0; at < index.count; at += 1) {
    const hash = chunkHash(index, at)
    hashes.set(hash, { length: index.lengths[at] ?? 0, times: (hashes.get(hash)?.times ?? 0) + 1 })
  }
  return hashes
}
