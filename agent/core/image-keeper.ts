import { join } from 'node:path'
import { placeOf } from '../../protocol/boot/slot-layout.ts'
import { withTag } from '../../protocol/core/image-name.ts'
import type { ImageSpec, SkiffCore } from '../../protocol/core/skiff-core.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import type { EventLog } from '../control/event-log.ts'
import { openBuildContext } from './build-context.ts'
import { readCredentials } from './credentials.ts'
import type { Engine } from './engine.ts'
import { growingPauseMs } from './growing-pause.ts'
import type { ImageFact } from './plan-core.ts'
import { type ImageSource, planImage } from './plan-image.ts'
import type { SignedImage, SignedImages } from './signed-images.ts'

export type ImageKeeperDeps = {
  readonly signed: SignedImages
  /** The persist directory of the agent, where archives of releases lie. */
  readonly persistPath: string
  /** For build contexts; on persist. */
  readonly workDirectory: string
  readonly log: EventLog
  /** Digests of images that releases brought: they go when no release on this device has them any more. */
  readonly remember: (digest: string) => Promise<void>
  /** An image came, or one could not be had. */
  readonly onChange: () => void
  readonly signal: AbortSignal
}

type Job = {
  /** What was asked for: another question is another job. */
  readonly key: string
  state: 'getting' | 'done' | 'failed'
  progress: string
  reason: string
  retryMs: number
  failures: number
}

const RETRY = { firstMs: 15_000, mostMs: 900_000 } as const

/** Gets the images that the file names, one after another, from where the policy says. */
export class ImageKeeper {
  readonly #deps: ImageKeeperDeps
  readonly #jobs = new Map<string, Job>()
  #queue: Promise<void> = Promise.resolve()

  constructor(deps: ImageKeeperDeps) {
    this.#deps = deps
  }

  /** What is known of every image that a container needs; what is not here is being got from now on. */
  async facts(engine: Engine, core: SkiffCore): Promise<ReadonlyMap<string, ImageFact>> {
    const names = new Set([...core.containers.values()].map(({ image }) => image))
    for (const name of this.#jobs.keys()) if (!names.has(name)) this.#jobs.delete(name)
    const facts = new Map<string, ImageFact>()
    for (const name of names) facts.set(name, await this.#fact(engine, name, core.images.get(name)))
    return facts
  }

  /** Tries again at once what failed. */
  retry(): void {
    for (const [name, job] of this.#jobs) if (job.state === 'failed') this.#jobs.delete(name)
  }

  /** Whether it is on its way. */
  isGetting(name: string): boolean {
    return this.#jobs.get(name)?.state === 'getting'
  }

  async #fact(engine: Engine, name: string, spec: ImageSpec | undefined): Promise<ImageFact> {
    const released = this.#deps.signed.released(name)
    if (released !== undefined) {
      const there = await engine.image(released.image.digest)
      if (there !== undefined) {
        if ((await engine.image(withTag(name)))?.id !== there.id) await engine.tag(there.id, withTag(name))
        return { id: there.id }
      }
    }
    const job = this.#jobs.get(name)
    const key = JSON.stringify([spec, released?.image.digest])
    const here = released === undefined ? await engine.image(name) : undefined
    const isAsked = job?.key === key && job.state === 'done'
    // A tag that somebody moved on this device counts, as it does for Docker.
    if (here !== undefined && (spec?.pullPolicy !== 'always' || isAsked))
      return runsHere(engine.architecture, here.architecture)
        ? { id: here.id }
        : { waiting: wrongArchitecture(name, here.architecture, engine).message }
    if (job?.key === key && job.state === 'getting') return { waiting: job.progress }
    if (job?.key === key && job.state === 'failed' && performance.now() < job.retryMs) return { waiting: job.reason }
    const next: Job = {
      key,
      state: 'getting',
      progress: 'looking for it',
      reason: '',
      retryMs: 0,
      failures: job?.key === key ? job.failures : 0,
    }
    this.#jobs.set(name, next)
    this.#queue = this.#queue.then(() => this.#get(engine, name, spec, next))
    return { waiting: next.progress }
  }

  async #get(engine: Engine, name: string, spec: ImageSpec | undefined, job: Job): Promise<void> {
    const { signed, log, signal, onChange } = this.#deps
    const reasons: string[] = []
    for (const source of planImage(spec, signed.released(name) !== undefined)) {
      if (signal.aborted) return
      try {
        const id = await this.#from(source, engine, name, spec, (text) => {
          job.progress = text
        })
        if (id === undefined) continue
        job.state = 'done'
        if (source !== 'engine') log.add('info', 'image', { image: name, from: source, id })
        return onChange()
      } catch (error) {
        if (signal.aborted) return
        reasons.push(messageOf(error))
      }
    }
    job.failures += 1
    job.state = 'failed'
    job.reason = reasons.length === 0 ? nowhere(name, spec) : reasons.join('; ')
    const delayMs = growingPauseMs(job.failures, RETRY)
    job.retryMs = performance.now() + delayMs
    log.add('warn', 'image-failed', { image: name, reason: job.reason, retrySeconds: Math.round(delayMs / 1_000) })
    onChange()
  }

  /** @returns the image's id; undefined when there is none to be had from there */
  async #from(
    source: ImageSource,
    engine: Engine,
    name: string,
    spec: ImageSpec | undefined,
    onProgress: (text: string) => void,
  ): Promise<string | undefined> {
    const { signed, persistPath, workDirectory, signal } = this.#deps
    switch (source) {
      case 'release': {
        const found = signed.released(name)
        if (found === undefined) return undefined
        const { path } = placeOf(found.release.id, found.artifact)
        return this.#load(engine, found, join(persistPath, path), onProgress)
      }
      case 'engine':
        return checked(engine, name, (await engine.image(name))?.id)
      case 'peers': {
        const found = await signed.find(name, engine.architecture)
        if (found === undefined) return undefined
        const here = await engine.image(found.image.digest)
        if (here !== undefined) return here.id
        const path = await signed.fetch(found, onProgress, signal)
        const id = await this.#load(engine, found, join(persistPath, path), onProgress)
        await signed.forget(found)
        return id
      }
      case 'registry': {
        const registry = spec?.registry
        const reference = registry === undefined ? withTag(name) : `${registry}/${withTag(name)}`
        const credentials = spec?.credentials && (await readCredentials(spec.credentials, registry))
        onProgress(`pulling ${reference}`)
        await engine.pull(reference, credentials || undefined, onProgress)
        const id = (await engine.image(reference))?.id
        if (id !== undefined && registry !== undefined) await engine.tag(id, withTag(name))
        return checked(engine, name, id)
      }
      case 'build': {
        if (spec?.build === undefined) return undefined
        onProgress(`building from ${spec.build.source}`)
        const { stream, dockerfile } = await openBuildContext(name, spec.build, join(workDirectory, 'build'))
        const given = Object.entries(spec.build.buildArgs).filter(
          (entry): entry is [string, string] => entry[1] !== null,
        )
        await engine.build(withTag(name), stream, { dockerfile, buildArgs: Object.fromEntries(given) }, onProgress)
        return (await engine.image(withTag(name)))?.id
      }
    }
  }

  async #load(
    engine: Engine,
    { image }: SignedImage,
    path: string,
    onProgress: (text: string) => void,
  ): Promise<string> {
    if (!runsHere(engine.architecture, image.architecture))
      throw wrongArchitecture(image.name, image.architecture, engine)
    await engine.load(path, onProgress)
    const there = await engine.image(image.digest)
    if (there === undefined)
      throw new FlotillaError(
        'VERIFY_FAILED',
        `load image ${image.name}: the archive does not contain ${image.digest}, which the release names`,
      )
    await engine.tag(there.id, image.name)
    await this.#deps.remember(there.id)
    return there.id
  }
}

async function checked(engine: Engine, name: string, id: string | undefined): Promise<string | undefined> {
  const found = id === undefined ? undefined : await engine.image(id)
  if (found === undefined) return undefined
  if (!runsHere(engine.architecture, found.architecture)) throw wrongArchitecture(name, found.architecture, engine)
  return found.id
}

/** Kernels of 64 bits run programs of 32. */
function runsHere(engine: string, image: string): boolean {
  return (
    image === '' ||
    engine === image ||
    (engine === 'amd64' && image === '386') ||
    (engine === 'arm64' && image === 'arm')
  )
}

function wrongArchitecture(name: string, found: string, engine: Engine): FlotillaError {
  return new FlotillaError(
    'NOT_FOR_THIS_DEVICE',
    `image ${name}: it is for ${found}, this device is ${engine.architecture}; add one for ${engine.architecture} to the release`,
  )
}

function nowhere(name: string, spec: ImageSpec | undefined): string {
  const places = planImage(spec, false).filter((source) => source !== 'engine')
  return `${name} is not on this device, and not to be had from ${places.join(', ')}; add it to the release (flotilla containers add)`
}
