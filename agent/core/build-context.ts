import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, rm, stat } from 'node:fs/promises'
import { join, posix } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { BuildSpec } from '../../protocol/core/skiff-core.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'

/** What an image is built from, as the engine takes it. */
export type BuildContext = { readonly stream: NodeJS.ReadableStream; readonly dockerfile: string }

const CLONE_MS = 600_000
const DOWNLOAD_MS = 1_800_000

/**
 * Opens the context of a build: a directory, a git repository, or a tarball, as `build.source` says.
 * @param work - a directory on persist, emptied here; root is RAM
 * @throws FlotillaError NOT_FOUND, VERIFY_FAILED, BAD_CONFIG
 */
export async function openBuildContext(image: string, spec: BuildSpec, work: string): Promise<BuildContext> {
  const what = `build ${image}: images.${image}.build.source ${spec.source}`
  // Never above the context, whatever the file says.
  const dockerfile = posix.normalize(`/${spec.dockerfile}`).slice(1)
  await rm(work, { recursive: true, force: true })
  await mkdir(work, { recursive: true })
  if (isGit(spec.source)) {
    const directory = join(work, 'context')
    await clone(spec.source, spec.ref, directory, what)
    return { stream: pack(directory), dockerfile }
  }
  if (/^https?:\/\//.test(spec.source)) {
    if (spec.sha256 === undefined)
      throw new FlotillaError('BAD_CONFIG', `${what}: a tarball from the network needs its sha256 beside it`)
    const file = join(work, 'context.tar.gz')
    await download(spec.source, file, what)
    return { stream: await openTarball(file, spec.sha256, what), dockerfile }
  }
  const info = await stat(spec.source).catch((cause: unknown) => {
    throw new FlotillaError('NOT_FOUND', `${what}: ${messageOf(cause)}; does the image bring it?`, { cause })
  })
  if (!info.isDirectory()) return { stream: await openTarball(spec.source, spec.sha256, what), dockerfile }
  return { stream: pack(spec.source), dockerfile }
}

function isGit(source: string): boolean {
  return source.startsWith('git://') || /^(https?|ssh|file):\/\/.*\.git$/.test(source)
}

function pack(directory: string): NodeJS.ReadableStream {
  const tar = spawn('tar', ['-C', directory, '-c', '.'], { stdio: ['ignore', 'pipe', 'ignore'] })
  tar.on('error', (error) => tar.stdout.destroy(error))
  return tar.stdout
}

async function openTarball(path: string, sha256: string | undefined, what: string): Promise<NodeJS.ReadableStream> {
  if (sha256 !== undefined) {
    const hash = createHash('sha256')
    await pipeline(createReadStream(path), hash)
    const found = hash.digest('hex')
    if (found !== sha256)
      throw new FlotillaError('VERIFY_FAILED', `${what}: its SHA-256 is ${found}, the file says ${sha256}`)
  }
  return createReadStream(path)
}

async function download(url: string, file: string, what: string): Promise<void> {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(DOWNLOAD_MS) })
    if (!answer.ok || answer.body === null) throw new Error(`HTTP ${answer.status}`)
    await pipeline(Readable.fromWeb(answer.body), createWriteStream(file))
  } catch (cause) {
    throw new FlotillaError('UNREACHABLE', `${what}: ${messageOf(cause)}`, { cause })
  }
}

async function clone(source: string, ref: string | undefined, directory: string, what: string): Promise<void> {
  const branch = ref === undefined ? [] : ['--branch', ref]
  const args = ['clone', '--quiet', '--depth', '1', ...branch, '--', source, directory]
  const environment = { ...process.env, GIT_TERMINAL_PROMPT: '0' }
  await new Promise<void>((resolve, reject) => {
    const git = spawn('git', args, { stdio: ['ignore', 'ignore', 'pipe'], env: environment, timeout: CLONE_MS })
    let said = ''
    git.stderr.on('data', (part: Buffer) => {
      said = (said + part.toString()).slice(-400)
    })
    const fail = (why: string) => reject(new FlotillaError('UNREACHABLE', `${what}: git clone: ${why}`))
    git.on('error', (error) => fail(`${error.message}; is git in the image?`))
    git.on('close', (code, signal) => (code === 0 ? resolve() : fail(said.trim() || `ended with ${code ?? signal}`)))
  })
}
