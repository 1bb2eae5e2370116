import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream, existsSync, renameSync, statSync } from 'node:fs'
import { pipeline } from 'node:stream/promises'
import { extract, pack } from 'tar-stream'
import { FlotillaError, isFlotillaError, messageOf } from '../../protocol/errors.ts'
import { encodeBundle, parseBundle } from '../../protocol/network/metadata-exchange.ts'
import type { Release } from '../../protocol/release/description.ts'
import { judgeBundle } from '../../protocol/trust/metadata-bundle.ts'
import { DEVICE_RULES } from '../../protocol/trust/trusted-set.ts'
import type { Repository } from './repository.ts'

/** Largest small file in an archive. */
const MAX_BLOB_BYTES = 16 * 2 ** 20

/**
 * Writes releases with all metadata into one tar file, for a USB stick: `metadata.json` (the same bundle that peers
 * exchange, all roots), `blobs/…`, `artifacts/…`. Written under a temporary name, renamed when whole.
 */
export async function exportArchive(
  repository: Repository,
  releases: readonly Release[],
  file: string,
  onProgress: (bytes: number) => void,
): Promise<void> {
  const tar = pack()
  const temporary = `${file}.new`
  const writing = pipeline(tar, createWriteStream(temporary))
  const bundle = repository.bundle()
  const add = (name: string, bytes: Uint8Array) => tar.entry({ name, mtime: new Date(0) }, Buffer.from(bytes))
  add('root.json', repository.roots()[0] ?? new Uint8Array())
  add('metadata.json', encodeBundle(bundle))
  const blobs = new Set(
    releases.flatMap((release) => [
      release.id,
      ...release.description.artifacts.map((artifact) => artifact.index.sha256),
    ]),
  )
  for (const sha256 of blobs) add(`blobs/${sha256}`, requireBlob(repository, sha256))
  for (const sha256 of new Set(
    releases.flatMap((release) => release.description.artifacts.map((artifact) => artifact.sha256)),
  )) {
    const path = repository.artifactPath(sha256)
    const entry = tar.entry({ name: `artifacts/${sha256}`, size: statSync(path).size, mtime: new Date(0) })
    const source = createReadStream(path)
    source.on('data', (part) => onProgress(part.length))
    await pipeline(source, entry)
  }
  tar.finalize()
  try {
    await writing
    renameSync(temporary, file)
  } catch (cause) {
    throw new FlotillaError('DISK_FAILED', `write ${file}: ${messageOf(cause)}`, { cause })
  }
}

/**
 * Reads an archive into a repository, with the checks a device makes: metadata by the repository's own root chain,
 * every file by its hash. Metadata that is older than the repository's is superseded, its files may still be of use.
 * @returns what was taken
 */
export async function importArchive(
  repository: Repository,
  file: string,
): Promise<{ readonly files: number; readonly superseded: boolean }> {
  if (!existsSync(file)) throw new FlotillaError('NOT_FOUND', `import ${file}: there is no such file`)
  const tar = extract()
  const reading = pipeline(createReadStream(file), tar)
  reading.catch(() => {}) // told below, when the entries end; a refusal ends the pipe as well
  let files = 0
  let superseded = false
  try {
    for await (const entry of tar) {
      const name = entry.header.name
      const match = /^(blobs|artifacts)\/([0-9a-f]{64})$/.exec(name)
      if (name === 'metadata.json') superseded = takeMetadata(repository, await readEntry(entry, MAX_BLOB_BYTES))
      else if (match?.[1] === 'blobs' && match[2] !== undefined) {
        const bytes = await readEntry(entry, MAX_BLOB_BYTES)
        requireHash(createHash('sha256').update(bytes).digest('hex'), match[2], name)
        repository.writeBlob(bytes)
        files += 1
      } else if (match?.[2] !== undefined) {
        await takeArtifact(repository, entry, match[2])
        files += 1
      } else entry.resume()
    }
    await reading
  } catch (cause) {
    if (isFlotillaError(cause)) throw cause
    throw new FlotillaError('BAD_INPUT', `import ${file}: ${messageOf(cause)}`, { cause })
  }
  return { files, superseded }
}

function takeMetadata(repository: Repository, bytes: Uint8Array): boolean {
  const bundle = parseBundle(bytes)
  const first = repository.roots()[0]
  if (first === undefined)
    throw new FlotillaError(
      'MISSING',
      "import: this repository has no root metadata; begin with the fleet's own repository",
    )
  const known = repository.trustedSet()
  const newer = bundle.roots.slice(known.root.data.version - 1)
  const verdict = judgeBundle(known, { ...bundle, roots: newer }, DEVICE_RULES)
  if (verdict.refusal?.code === 'ROLLBACK') return true
  if (verdict.refusal !== undefined)
    throw new FlotillaError(verdict.refusal.code, `import: ${verdict.refusal.message}`, { cause: verdict.refusal })
  let version = known.root.data.version
  for (const root of newer) repository.writeMetadata(`${(version += 1)}.root.json`, root)
  for (const [name, file] of verdict.set.roles)
    repository.writeMetadata(`${file.data.version}.${name}.json`, file.bytes)
  if (bundle.policy !== undefined) repository.writeBlob(bundle.policy)
  if (verdict.set.snapshot !== undefined)
    repository.writeMetadata(`${verdict.set.snapshot.data.version}.snapshot.json`, verdict.set.snapshot.bytes)
  if (verdict.set.timestamp !== undefined) repository.writeMetadata('timestamp.json', verdict.set.timestamp.bytes)
  return false
}

async function takeArtifact(repository: Repository, entry: AsyncIterable<unknown>, sha256: string): Promise<void> {
  const path = repository.artifactPath(sha256)
  const hash = createHash('sha256')
  await pipeline(
    entry,
    async function* (source: AsyncIterable<unknown>) {
      for await (const part of source) {
        if (!(part instanceof Uint8Array)) continue
        hash.update(part)
        yield part
      }
    },
    createWriteStream(`${path}.new`),
  )
  requireHash(hash.digest('hex'), sha256, `artifacts/${sha256}`)
  renameSync(`${path}.new`, path)
}

async function readEntry(entry: AsyncIterable<unknown>, maxBytes: number): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  let size = 0
  for await (const part of entry) {
    if (!(part instanceof Uint8Array)) continue
    size += part.length
    if (size > maxBytes) throw new FlotillaError('LENGTH', `import: a small file has more than ${maxBytes} bytes`)
    parts.push(part)
  }
  return Buffer.concat(parts)
}

function requireHash(found: string, wanted: string, name: string): void {
  if (found !== wanted)
    throw new FlotillaError(
      'VERIFY_FAILED',
      `import: ${name} is damaged (its hash is ${found.slice(0, 16)}…); copy the file to the stick again`,
    )
}

function requireBlob(repository: Repository, sha256: string): Uint8Array {
  const bytes = repository.readBlob(sha256)
  if (bytes === undefined)
    throw new FlotillaError('MISSING', `export: ${sha256.slice(0, 16)}… is not in the repository`)
  return bytes
}
