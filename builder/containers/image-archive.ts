import { createHash } from 'node:crypto'
import {
  createReadStream,
  createWriteStream,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  closeSync,
  rmSync,
  statSync,
} from 'node:fs'
import { rename } from 'node:fs/promises'
import { dirname, join, posix } from 'node:path'
import { pipeline as copy, Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { extract, pack, type Pack } from 'tar-stream'
import { withTag } from '../../protocol/core/image-name.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import type { ContainerImage } from '../../protocol/release/description.ts'
import { type JsonObject, parseJson, shape } from '../../protocol/shape.ts'

const MAX_JSON_BYTES = 4 * 2 ** 20
const MAX_ENTRIES = 100_000
const MAX_LAYERS = 512

/** A file of an archive, kept beside the new one while it is put together; a link has the name of its target. */
type Entry = { readonly file: string } | { readonly link: string }
type Layer = { readonly file: string; readonly diffId: string }
type ReadImage = { readonly config: Buffer; readonly layers: readonly Entry[]; readonly name: string | undefined }

/**
 * Writes an image so that chunks repeat between its versions: layers not compressed, in their order from the base up, each under the
 * hash of its content, without times. Takes what `docker save` writes and OCI archives, also with compressed layers. The engine's
 * `docker load` reads it.
 * @param name - chooses one of several images in the archive, and names one that has no name
 * @throws FlotillaError BAD_INPUT when it is no image, or a layer is not what the configuration says
 * @see OCI Image Specification, "Image Layout"; Docker Image Specification v1.2, "Combined Image JSON + Filesystem Changeset Format"
 */
export async function normalizeImage(
  input: NodeJS.ReadableStream,
  out: string,
  name: string | undefined,
): Promise<ContainerImage> {
  const work = mkdtempSync(join(dirname(out), '.image-'))
  try {
    const entries = await unpack(input, work)
    const found = entries.has('manifest.json') ? fromDocker(entries, name) : fromOci(entries)
    const config = parseConfig(found.config)
    const called = name ?? found.name
    if (called === undefined)
      throw new FlotillaError('BAD_INPUT', 'read image: the archive does not name it; say --name NAME:TAG')
    if (config.diffIds.length !== found.layers.length)
      throw new FlotillaError(
        'BAD_INPUT',
        `read image ${called}: ${found.layers.length} layers, its configuration names ${config.diffIds.length}`,
      )
    const layers: Layer[] = []
    for (const [at, diffId] of config.diffIds.entries())
      layers.push({ diffId, file: await plainLayer(resolveLink(entries, found.layers[at], called), diffId, work) })
    await write(`${out}.new`, withTag(called), found.config, layers)
    await rename(`${out}.new`, out)
    return { name: withTag(called), digest: digestOf(found.config), architecture: config.architecture }
  } finally {
    rmSync(work, { recursive: true, force: true })
    rmSync(`${out}.new`, { force: true })
  }
}

/**
 * Says which image a normalised archive holds, without its layers.
 * @throws FlotillaError BAD_INPUT when it is no archive that `normalizeImage` wrote
 */
export async function describeImage(path: string): Promise<ContainerImage> {
  const small = new Map<string, Buffer>()
  const reader = extract()
  let isPlain = true
  reader.on('entry', (header, stream, next) => {
    const isJson = header.name.endsWith('.json') && (header.size ?? 0) <= MAX_JSON_BYTES
    if (!isJson && !/^[0-9a-f]{64}\/layer\.tar$/.test(header.name)) isPlain = false
    const parts: Buffer[] = []
    stream.on('data', (part) => isJson && parts.push(part as Buffer))
    stream.on('end', () => {
      if (isJson) small.set(header.name, Buffer.concat(parts))
      next()
    })
  })
  await pipeline(createReadStream(path), reader).catch((cause: unknown) => notOurs(path, messageOf(cause)))
  const entries = new Map<string, Buffer>(small)
  if (!isPlain || !entries.has('manifest.json')) return notOurs(path, 'it is compressed, or written by another program')
  const [first] = shape.array(parseJson(entries.get('manifest.json') ?? Buffer.alloc(0), path, MAX_JSON_BYTES), path, 1)
  const manifest = shape.object(first, `${path}: manifest`)
  const config = entries.get(shape.string(manifest['Config'], `${path}: Config`, 200))
  const [tag] = shape.array(manifest['RepoTags'], `${path}: RepoTags`, 1)
  if (config === undefined) return notOurs(path, 'its configuration is missing')
  return {
    name: shape.string(tag, `${path}: RepoTags`, 300),
    digest: digestOf(config),
    architecture: parseConfig(config).architecture,
  }
}

function notOurs(path: string, why: string): never {
  throw new FlotillaError(
    'BAD_INPUT',
    `read image ${path}: ${why}; put it there with \`flotilla containers add FILE --images DIR\`, so that devices fetch only what changed`,
  )
}

async function unpack(input: NodeJS.ReadableStream, work: string): Promise<ReadonlyMap<string, Entry>> {
  const entries = new Map<string, Entry>()
  const reader = extract()
  reader.on('entry', (header, stream, next) => {
    const name = posix.normalize(`/${header.name}`).slice(1)
    if (entries.size >= MAX_ENTRIES) return next(new Error(`more than ${MAX_ENTRIES} files`))
    if (header.type === 'symlink' || header.type === 'link') {
      const base = header.type === 'symlink' ? posix.dirname(name) : ''
      entries.set(name, { link: posix.normalize(`/${base}/${header.linkname ?? ''}`).slice(1) })
    }
    if (header.type !== 'file') {
      stream.resume()
      return stream.on('end', () => next())
    }
    // By number: a name from outside never becomes a path.
    const file = join(work, String(entries.size))
    entries.set(name, { file })
    copy(stream, createWriteStream(file), next)
  })
  try {
    await pipeline(input, decompressed(await peek(input)), reader)
  } catch (cause) {
    throw new FlotillaError('BAD_INPUT', `read image: not an archive that can be read: ${messageOf(cause)}`, { cause })
  }
  return entries
}

/** The first bytes of a stream, which stay in it. */
async function peek(input: NodeJS.ReadableStream): Promise<Buffer> {
  const first = await new Promise<Buffer>((resolve, reject) => {
    const done = () => {
      const found = input.read() as Buffer | string | null
      if (found === null) return
      input.removeListener('readable', done)
      input.unshift(found)
      resolve(Buffer.from(found))
    }
    input.on('readable', done)
    input.once('end', () => resolve(Buffer.alloc(0)))
    input.once('error', reject)
  })
  return first
}

/** What undoes the compression that the first bytes show: gzip, Zstandard, or none. */
function decompressed(head: Buffer): Transform {
  if (head.length > 1 && head.readUInt16BE(0) === 0x1f8b) return createGunzip()
  if (head.length > 3 && head.readUInt32LE(0) === 0xfd2fb528) return createZstdDecompress()
  return new Transform({ transform: (part, _, next) => next(null, part) })
}

function fromDocker(entries: ReadonlyMap<string, Entry>, name: string | undefined): ReadImage {
  const list = shape
    .array(readJson(entries, 'manifest.json'), 'manifest.json', 64)
    .map((item) => shape.object(item, 'manifest.json'))
  const tagsOf = (item: JsonObject) =>
    shape.array(item['RepoTags'] ?? [], 'manifest.json: RepoTags', 256).map((tag) => shape.string(tag, 'RepoTags', 512))
  const named = list.filter((item) => name !== undefined && tagsOf(item).includes(withTag(name)))
  const chosen = named[0] ?? (list.length === 1 ? list[0] : undefined)
  if (chosen === undefined)
    throw new FlotillaError(
      'BAD_INPUT',
      `read image: the archive has ${list.length} images (${list.flatMap(tagsOf).join(', ')}); say which: --name NAME:TAG`,
    )
  const layers = shape.array(chosen['Layers'], 'manifest.json: Layers', MAX_LAYERS)
  return {
    config: readSmall(entries, shape.string(chosen['Config'], 'manifest.json: Config', 1_024)),
    layers: layers.map((layer) => ({ link: shape.string(layer, 'manifest.json: Layers', 1_024) })),
    name: tagsOf(chosen)[0],
  }
}

function fromOci(entries: ReadonlyMap<string, Entry>): ReadImage {
  if (!entries.has('index.json'))
    throw new FlotillaError(
      'BAD_INPUT',
      'read image: neither manifest.json (docker save) nor index.json (OCI) is in it',
    )
  const only = (json: JsonObject, what: string): JsonObject => {
    const list = shape.array(json['manifests'], `${what}: manifests`, 64).map((item) => shape.object(item, what))
    const real = list.filter((item) => (item['platform'] as { os?: unknown } | undefined)?.os !== 'unknown')
    const [first] = real
    if (first !== undefined && real.length === 1) return first
    throw new FlotillaError(
      'BAD_INPUT',
      `read image: ${what} names ${real.length} images; one for one platform is needed`,
    )
  }
  const blob = (descriptor: JsonObject): string =>
    `blobs/${shape.matching(descriptor['digest'], 'digest', /^sha256:[0-9a-f]{64}$/, 'sha256: and 64 digits').replace(':', '/')}`
  const entry = only(shape.object(readJson(entries, 'index.json'), 'index.json'), 'index.json')
  let manifest = shape.object(readJson(entries, blob(entry)), 'image manifest')
  if (manifest['manifests'] !== undefined)
    manifest = shape.object(readJson(entries, blob(only(manifest, 'image index'))), 'image manifest')
  const layers = shape.array(manifest['layers'], 'image manifest: layers', MAX_LAYERS)
  const annotations = entry['annotations'] as Record<string, unknown> | undefined
  const named = annotations?.['io.containerd.image.name'] ?? annotations?.['org.opencontainers.image.ref.name']
  return {
    config: readSmall(entries, blob(shape.object(manifest['config'], 'image manifest: config'))),
    layers: layers.map((layer) => ({ link: blob(shape.object(layer, 'image manifest: layers')) })),
    name: typeof named === 'string' && named.includes(':') ? named : undefined,
  }
}

function resolveLink(entries: ReadonlyMap<string, Entry>, entry: Entry | undefined, name: string): string {
  let at = entry
  for (let hops = 0; hops < 8 && at !== undefined; hops += 1) {
    if ('file' in at) return at.file
    at = entries.get(at.link)
  }
  throw new FlotillaError('BAD_INPUT', `read image ${name}: a layer is not in the archive`)
}

function readSmall(entries: ReadonlyMap<string, Entry>, name: string): Buffer {
  const file = resolveLink(entries, entries.get(name), name)
  if (statSync(file).size > MAX_JSON_BYTES) throw new FlotillaError('BAD_INPUT', `read image: ${name} is too large`)
  return readFileSync(file)
}

function readJson(entries: ReadonlyMap<string, Entry>, name: string): unknown {
  return parseJson(readSmall(entries, name), name, MAX_JSON_BYTES)
}

function parseConfig(bytes: Buffer): { readonly architecture: string; readonly diffIds: readonly string[] } {
  const json = shape.object(parseJson(bytes, 'image configuration', MAX_JSON_BYTES), 'image configuration')
  const root = shape.object(json['rootfs'], 'image configuration: rootfs')
  return {
    architecture: shape.string(json['architecture'], 'image configuration: architecture', 16),
    diffIds: shape
      .array(root['diff_ids'], 'image configuration: diff_ids', MAX_LAYERS)
      .map((id) => shape.matching(id, 'diff_ids', /^sha256:[0-9a-f]{64}$/, 'sha256: and 64 digits').slice(7)),
  }
}

function digestOf(config: Buffer): string {
  return `sha256:${createHash('sha256').update(config).digest('hex')}`
}

/** A layer without compression, matched with its hash. */
async function plainLayer(file: string, diffId: string, work: string): Promise<string> {
  const plain = join(work, `layer-${diffId}`)
  const hash = createHash('sha256')
  const count = new Transform({
    transform: (part: Buffer, _, next) => {
      hash.update(part)
      next(null, part)
    },
  })
  try {
    await pipeline(createReadStream(file), decompressed(headOf(file)), count, createWriteStream(plain))
  } catch (cause) {
    throw new FlotillaError('BAD_INPUT', `read image: layer ${diffId.slice(0, 16)}: ${messageOf(cause)}`, { cause })
  }
  const found = hash.digest('hex')
  if (found !== diffId)
    throw new FlotillaError(
      'BAD_INPUT',
      `read image: a layer is ${found.slice(0, 16)}…, its configuration says ${diffId.slice(0, 16)}…`,
    )
  return plain
}

function headOf(path: string): Buffer {
  const file = openSync(path, 'r')
  try {
    const head = Buffer.alloc(4)
    return head.subarray(0, readSync(file, head, 0, 4, 0))
  } finally {
    closeSync(file)
  }
}

async function write(out: string, name: string, config: Buffer, layers: readonly Layer[]): Promise<void> {
  const archive = pack()
  const done = pipeline(archive, createWriteStream(out))
  const fill = async () => {
    const written = new Set<string>()
    for (const { diffId, file } of layers) {
      // An empty layer may occur several times.
      if (!written.has(diffId)) await addFile(archive, `${diffId}/layer.tar`, file)
      written.add(diffId)
    }
    const configName = `${digestOf(config).slice(7)}.json`
    const manifest = [
      { Config: configName, RepoTags: [name], Layers: layers.map(({ diffId }) => `${diffId}/layer.tar`) },
    ]
    archive.entry(header(configName, config.length), config)
    const text = Buffer.from(`${JSON.stringify(manifest)}\n`)
    archive.entry(header('manifest.json', text.length), text)
    archive.finalize()
  }
  await Promise.all([done, fill()])
}

function header(name: string, size: number) {
  return { name, size, mode: 0o644, uid: 0, gid: 0, mtime: new Date(0) }
}

async function addFile(archive: Pack, name: string, file: string): Promise<void> {
  await pipeline(createReadStream(file, { highWaterMark: 1_048_576 }), archive.entry(header(name, statSync(file).size)))
}
