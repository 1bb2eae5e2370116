import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import type Docker from 'dockerode'
import type { ContainerCreateOptions, ContainerInspectInfo } from 'dockerode'
import { FlotillaError } from '../../protocol/errors.ts'
import { explainEngineError } from './engine-error.ts'
import type { FoundContainer } from './inventory.ts'

export type FoundImage = { readonly id: string; readonly architecture: string }
export type Credentials = { readonly username: string; readonly password: string; readonly serveraddress: string }
/** What comes of a long call, as lines that tell how far it is. */
export type OnProgress = (text: string) => void

/** What the engine reports that may change a plan; not every exec of a health check. */
const EVENTS = [
  'create',
  'destroy',
  'die',
  'health_status',
  'rename',
  'start',
  'stop',
  'delete',
  'import',
  'load',
  'pull',
  'tag',
  'untag',
] as const
/** Docker 19.03: what the file's keys need (`gpus`). */
const LEAST_API = [1, 40] as const
const QUICK_MS = 20_000
/** To stop a container, above the time that it is given itself. */
const STOP_MARGIN_MS = 30_000
const DEFAULT_STOP_SECONDS = 10
/** Pulls and builds say something; silence for so long is a dead registry. */
const IDLE_MS = 300_000
/** An engine may answer only once it has the whole archive, which a slow card takes its time for. */
const FIRST_ANSWER_MS = 1_800_000

/**
 * Docker, as far as containers are kept in order with it. Every wait has a bound; whatever fails says what was attempted.
 * @see Docker Engine API 1.41
 */
export class Engine {
  readonly #docker: Docker
  /** As Go calls it: `amd64`. */
  readonly architecture: string

  private constructor(docker: Docker, architecture: string) {
    this.#docker = docker
    this.architecture = architecture
  }

  /** @throws FlotillaError UNREACHABLE, BAD_CONFIG when the engine is too old */
  static async open(socketPath: string): Promise<Engine> {
    const { default: Client } = await import('dockerode') // not needed to start
    const docker = new Client({ socketPath })
    const what = `ask the container engine at ${socketPath}`
    const version = await attempt(what, () => withinTime(docker.version()))
    const [major = 0, minor = 0] = version.ApiVersion.split('.').map(Number)
    if (major < LEAST_API[0] || (major === LEAST_API[0] && minor < LEAST_API[1]))
      throw new FlotillaError(
        'BAD_CONFIG',
        `${what}: it is version ${version.Version} (API ${version.ApiVersion}); API ${LEAST_API.join('.')} or newer is needed (Docker 19.03)`,
      )
    return new Engine(docker, version.Arch)
  }

  /** All containers, running or not. */
  async containers(): Promise<readonly FoundContainer[]> {
    const list = await attempt('list containers', () => this.#docker.listContainers({ all: true, ...quick() }))
    const found = await Promise.all(list.map(({ Id }) => this.container(Id)))
    return found.filter((one) => one !== undefined)
  }

  /** @param nameOrId - undefined when there is none */
  async container(nameOrId: string): Promise<FoundContainer | undefined> {
    const found = await orMissing(`inspect container ${nameOrId}`, () =>
      this.#docker.getContainer(nameOrId).inspect(quick()),
    )
    return found && toFound(found)
  }

  async image(nameOrId: string): Promise<FoundImage | undefined> {
    const found = await orMissing(`inspect image ${nameOrId}`, () =>
      withinTime(this.#docker.getImage(nameOrId).inspect()),
    )
    return found && { id: found.Id, architecture: found.Architecture }
  }

  async create(name: string, options: ContainerCreateOptions, container: string): Promise<string> {
    const made = await attempt(
      `create ${name}`,
      () => this.#docker.createContainer({ name, ...options, ...patient() }),
      container,
    )
    return made.id
  }

  async connect(network: string, name: string): Promise<void> {
    await attempt(`connect ${name} to the network ${network}`, () =>
      this.#docker.getNetwork(network).connect({ Container: name, ...quick() }),
    )
  }

  /** Makes a network of the engine's default kind unless it is there. */
  async requireNetwork(network: string, labels: Readonly<Record<string, string>>): Promise<void> {
    const there = await orMissing(`inspect network ${network}`, () =>
      withinTime(this.#docker.getNetwork(network).inspect()),
    )
    if (there !== undefined) return
    await attempt(`create network ${network}`, () =>
      this.#docker.createNetwork({ Name: network, CheckDuplicate: true, Labels: { ...labels }, ...quick() }),
    )
  }

  async start(name: string, container: string): Promise<void> {
    await attempt(`start ${name}`, () => unchangedIsFine(this.#docker.getContainer(name).start(patient())), container)
  }

  /** Asks it to end, and ends it when its time is over. */
  async stop(name: string, seconds: number): Promise<void> {
    const abortSignal = AbortSignal.timeout(seconds * 1_000 + STOP_MARGIN_MS)
    await attempt(`stop ${name}`, () => unchangedIsFine(this.#docker.getContainer(name).stop({ abortSignal })))
  }

  /** Takes effect at once; the container goes on. */
  async setRestartPolicy(name: string, policy: string): Promise<void> {
    await attempt(`set the restart policy of ${name}`, () =>
      this.#docker.getContainer(name).update({ RestartPolicy: { Name: policy }, ...quick() }),
    )
  }

  async rename(name: string, to: string): Promise<void> {
    await attempt(`rename ${name} to ${to}`, () => this.#docker.getContainer(name).rename({ name: to, ...quick() }))
  }

  /** Removes a container, never a volume. Fine when it is gone. */
  async remove(name: string): Promise<void> {
    await orMissing(`remove ${name}`, () =>
      this.#docker.getContainer(name).remove({ force: true, v: false, ...patient() }),
    )
  }

  /** Fine when it is gone; `false` when something uses it. */
  async removeImage(id: string): Promise<boolean> {
    try {
      await orMissing(`remove image ${id}`, () => this.#docker.getImage(id).remove({ force: false, ...patient() }))
      return true
    } catch (error) {
      if (error instanceof FlotillaError && error.code === 'BUSY') return false
      throw error
    }
  }

  /** The last lines that a container printed. */
  async lastWords(name: string): Promise<string> {
    const raw = await this.#docker
      .getContainer(name)
      .logs({ stdout: true, stderr: true, tail: 5, follow: false, ...quick() })
      .catch(() => Buffer.alloc(0))
    return plainText(Buffer.from(raw)).trim().slice(-500)
  }

  /** Loads an archive that lies on this device. @throws FlotillaError NOT_ENOUGH_SPACE and others */
  async load(path: string, onProgress: OnProgress): Promise<void> {
    const { size } = await stat(path)
    let done = 0
    const file = createReadStream(path, { highWaterMark: 1_048_576 })
    file.on('data', (part) => {
      done += part.length
      onProgress(`loading: ${Math.floor((done * 100) / Math.max(1, size))} %`)
    })
    await this.loadStream(`load ${path}`, file)
  }

  /** Loads an archive that is made as it is read. */
  async loadStream(what: string, archive: NodeJS.ReadableStream): Promise<void> {
    const options = { quiet: false, abortSignal: failureOf(archive) }
    await this.#follow(what, this.#docker.loadImage(archive, options), () => {})
  }

  async tag(id: string, name: string): Promise<void> {
    const colon = name.lastIndexOf(':')
    await attempt(`tag ${id} as ${name}`, () =>
      this.#docker.getImage(id).tag({ repo: name.slice(0, colon), tag: name.slice(colon + 1), ...quick() }),
    )
  }

  /** Pulls from a registry. @param name - with registry and tag */
  async pull(name: string, credentials: Credentials | undefined, onProgress: OnProgress): Promise<void> {
    const options = credentials === undefined ? {} : { authconfig: credentials }
    await this.#follow(`pull ${name}`, this.#docker.pull(name, options), onProgress)
  }

  /** Builds from a context, a tar stream. @throws FlotillaError BUILD_FAILED with the last lines of the build */
  async build(
    name: string,
    context: NodeJS.ReadableStream,
    options: { readonly dockerfile: string; readonly buildArgs: Readonly<Record<string, string>> },
    onProgress: OnProgress,
  ): Promise<void> {
    const building = this.#docker.buildImage(context, {
      t: name,
      dockerfile: options.dockerfile,
      buildargs: { ...options.buildArgs },
      rm: true,
      forcerm: true,
      abortSignal: failureOf(context),
    })
    await this.#follow(`build ${name}`, building, onProgress)
  }

  /** Calls `onChange` when the engine reports something about a container or an image; ends when the engine does. */
  async watch(onChange: () => void, signal: AbortSignal): Promise<void> {
    const filters = { type: ['container', 'image'], event: [...EVENTS] }
    const events = await attempt('listen to the container engine', () =>
      this.#docker.getEvents({ filters: JSON.stringify(filters), abortSignal: signal } as Docker.GetEventsOptions),
    )
    await new Promise<void>((resolve) => {
      events.on('data', onChange)
      for (const end of ['end', 'close', 'error'] as const) events.on(end, () => resolve())
    })
  }

  /** Follows a long call to its end: the engine reports a failure in the middle of an answer that began well. */
  async #follow(what: string, call: Promise<NodeJS.ReadableStream>, onProgress: OnProgress): Promise<void> {
    const stream = await attempt(what, () => withinTime(call, FIRST_ANSWER_MS))
    const lines: string[] = []
    await attempt(
      what,
      () =>
        new Promise<void>((resolve, reject) => {
          const tooQuiet = () =>
            reject(new FlotillaError('TIMEOUT', `${what}: nothing was heard for ${IDLE_MS / 1_000} s`))
          let timer = setTimeout(tooQuiet, IDLE_MS)
          const finish = (error: unknown) => {
            clearTimeout(timer)
            if (error === null || error === undefined) resolve()
            else reject(withLines(what, error, lines))
          }
          this.#docker.modem.followProgress(stream, finish, (event: ProgressEvent) => {
            clearTimeout(timer)
            timer = setTimeout(tooQuiet, IDLE_MS)
            if (event.error !== undefined) return finish(new Error(event.error))
            const text = (event.stream ?? [event.id, event.status, event.progress].filter(Boolean).join(' ')).trim()
            if (text === '') return
            lines.push(text)
            if (lines.length > 8) lines.shift()
            onProgress(text)
          })
        }),
    )
  }
}

type ProgressEvent = {
  readonly error?: string
  readonly stream?: string
  readonly id?: string
  readonly status?: string
  readonly progress?: string
}

function withLines(what: string, error: unknown, lines: readonly string[]): unknown {
  if (!what.startsWith('build ') || /no space left/i.test(String(error))) return error
  const said = error instanceof Error ? error.message : String(error)
  return new FlotillaError('BUILD_FAILED', `${what}: ${said}; the last lines: ${lines.join(' | ').slice(-600)}`, {
    cause: error,
  })
}

function quick() {
  return { abortSignal: AbortSignal.timeout(QUICK_MS) }
}

/** Aborts when a stream that is sent cannot be read any more: the engine would wait for the rest for ever. */
function failureOf(stream: NodeJS.ReadableStream): AbortSignal {
  const failed = new AbortController()
  stream.on('error', (error) => failed.abort(error))
  return failed.signal
}

/** For calls that take no signal. */
async function withinTime<T>(call: Promise<T>, ms: number = QUICK_MS): Promise<T> {
  const late = new FlotillaError('UNREACHABLE', `ask the container engine: no answer in ${ms / 1_000} s`)
  let timer: NodeJS.Timeout | undefined
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(late), ms)
  })
  return Promise.race([call, limit]).finally(() => clearTimeout(timer))
}

/** To create what a slow card keeps takes its time. */
function patient() {
  return { abortSignal: AbortSignal.timeout(120_000) }
}

async function attempt<T>(what: string, call: () => Promise<T>, container?: string): Promise<T> {
  try {
    return await call()
  } catch (error) {
    throw explainEngineError(error, what, container)
  }
}

async function orMissing<T>(what: string, call: () => Promise<T>): Promise<T | undefined> {
  try {
    return await call()
  } catch (error) {
    if ((error as { statusCode?: number }).statusCode === 404) return undefined
    throw explainEngineError(error, what)
  }
}

/** 304: it is so already. */
async function unchangedIsFine(call: Promise<unknown>): Promise<void> {
  await call.catch((error: { statusCode?: number }) => {
    if (error.statusCode !== 304) throw error
  })
}

/** Without a terminal Docker puts a header of 8 bytes before every piece of output. */
function plainText(raw: Buffer): string {
  const parts: Buffer[] = []
  let at = 0
  while (at + 8 <= raw.length && (raw[at] ?? 9) <= 2 && raw.readUIntBE(at + 1, 3) === 0) {
    const length = raw.readUInt32BE(at + 4)
    parts.push(raw.subarray(at + 8, at + 8 + length))
    at += 8 + length
  }
  return (at === 0 ? raw : Buffer.concat(parts)).toString('utf8')
}

function toFound(info: ContainerInspectInfo): FoundContainer {
  const { Config, HostConfig, State } = info
  const list = (value: string | string[] | null | undefined) =>
    value === null || value === undefined ? [] : typeof value === 'string' ? [value] : value
  return {
    id: info.Id,
    name: info.Name.replace(/^\//, ''),
    imageId: info.Image,
    image: Config.Image,
    labels: Config.Labels ?? {},
    status: State.Status as FoundContainer['status'],
    exitCode: State.ExitCode,
    restarts: info.RestartCount,
    health: (State.Health?.Status ?? 'none') as FoundContainer['health'],
    restartPolicy: HostConfig.RestartPolicy?.Name || 'no',
    stopSeconds: (Config as { StopTimeout?: number }).StopTimeout ?? DEFAULT_STOP_SECONDS,
    problem: State.Error,
    createdMs: Date.parse(info.Created),
    finishedMs: Math.max(0, Date.parse(State.FinishedAt) || 0),
    volumes: info.Mounts.filter(({ Type }) => Type === 'volume').map(({ Name = '', Destination }) => ({
      volume: Name,
      target: Destination,
    })),
    made: {
      binds: list(HostConfig.Binds),
      privileged: HostConfig.Privileged === true,
      hostNetwork: HostConfig.NetworkMode === 'host',
      tty: Config.Tty,
      env: list(Config.Env),
      entrypoint: list(Config.Entrypoint),
      cmd: list(Config.Cmd),
    },
  }
}
