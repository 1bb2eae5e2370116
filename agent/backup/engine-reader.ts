import type Docker from 'dockerode'
import { FlotillaError, isFlotillaError } from '../../protocol/errors.ts'
import { explainEngineError } from '../core/engine-error.ts'
import type { FoundMount } from './plan-capture.ts'

/** A container as a backup sees it. */
export type SeenContainer = {
  readonly id: string
  readonly status: string
  readonly imageId: string
  readonly imageName: string
  readonly mounts: readonly FoundMount[]
  /** Its writable layer, and the layers below, the uppermost first; undefined when the engine keeps containers in another way. */
  readonly layers: { readonly upper: string; readonly lower: readonly string[] } | undefined
  readonly driver: string
  /** Everything that the engine says, for who restores by hand. */
  readonly inspect: string
}

const QUICK_MS = 30_000
const EXEC_MS = 600_000
const MAX_SAID = 4_096

/** What backups need of Docker beside what keeps containers in order. */
export class EngineReader {
  readonly #docker: Docker

  private constructor(docker: Docker) {
    this.#docker = docker
  }

  static async open(socketPath: string): Promise<EngineReader> {
    const { default: Client } = await import('dockerode')
    return new EngineReader(new Client({ socketPath }))
  }

  /** @throws FlotillaError NOT_FOUND, UNREACHABLE */
  async container(name: string): Promise<SeenContainer> {
    const found = await attempt(`inspect container ${name}`, () =>
      this.#docker.getContainer(name).inspect({ abortSignal: AbortSignal.timeout(QUICK_MS) }),
    )
    const driver = found.GraphDriver as { Name?: string; Data?: Record<string, string> | null } | undefined
    const upper = driver?.Data?.['UpperDir']
    const lower = driver?.Data?.['LowerDir']
    return {
      id: found.Id,
      status: found.State.Status,
      imageId: found.Image,
      imageName: found.Config.Image,
      mounts: found.Mounts.map(({ Type, Name, Source, Destination, RW }) => ({
        kind: Type === 'volume' || Type === 'bind' ? Type : 'other',
        source: Type === 'volume' ? (Name ?? '') : Source,
        path: Source,
        target: Destination,
        writable: RW,
      })),
      layers: upper === undefined || lower === undefined ? undefined : { upper, lower: lower.split(':') },
      driver: driver?.Name ?? 'unknown',
      inspect: `${JSON.stringify(found, null, 1)}\n`,
    }
  }

  /** The image as the engine describes it: what makes an image of a tree. */
  async image(id: string): Promise<string> {
    return `${JSON.stringify(await attempt(`inspect image ${id}`, () => this.#docker.getImage(id).inspect()), null, 1)}\n`
  }

  async pause(name: string): Promise<void> {
    await attempt(`pause ${name}`, () => this.#docker.getContainer(name).pause())
  }

  /** Fine when it is not paused, or gone. @throws FlotillaError BUSY when it stays paused */
  async unpause(name: string): Promise<void> {
    let failure: unknown
    await this.#docker
      .getContainer(name)
      .unpause()
      .catch((error: unknown) => (failure = error))
    const found = await this.container(name).catch((error: unknown) => {
      if (isFlotillaError(error, 'NOT_FOUND')) return undefined
      throw error
    })
    if (found?.status === 'paused')
      throw new FlotillaError('BUSY', `let ${name} go on: the engine keeps it paused: ${String(failure)}`)
  }

  /** Runs a command in a container to its end. @throws FlotillaError BAD_CONFIG with what it said when it fails */
  async exec(name: string, command: readonly string[], what: string): Promise<void> {
    const container = this.#docker.getContainer(name)
    const { code, said } = await attempt(what, async () => {
      const run = await container.exec({ Cmd: [...command], AttachStdout: true, AttachStderr: true, Tty: true })
      const stream = await run.start({ Tty: true })
      let text = ''
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(
          () => reject(new FlotillaError('TIMEOUT', `${what}: not done after ${EXEC_MS / 1_000} s`)),
          EXEC_MS,
        )
        stream.on('data', (part: Buffer) => (text = (text + part.toString()).slice(-MAX_SAID)))
        stream.on('error', reject)
        stream.on('end', resolve)
        stream.on('close', resolve)
        void timer.unref()
      })
      return { code: (await run.inspect()).ExitCode, said: text.trim() }
    })
    if (code !== 0)
      throw new FlotillaError(
        'BAD_CONFIG',
        `${what}: ${command.join(' ')} ended with exit code ${code}: ${said.slice(-300)}`,
      )
  }

  /** Where a volume lies on the host; it is made when it is not there. */
  async volumePath(name: string): Promise<string> {
    await attempt(`make volume ${name}`, () => this.#docker.createVolume({ Name: name }))
    return (await attempt(`inspect volume ${name}`, () => this.#docker.getVolume(name).inspect())).Mountpoint
  }

  /** Running containers, other than `name`, that mount a volume or a path. */
  async othersUsing(name: string, path: string): Promise<readonly string[]> {
    const list = await attempt('list containers', () => this.#docker.listContainers())
    const users = list.filter(({ Mounts }) => (Mounts as { Source?: string }[]).some(({ Source }) => Source === path))
    return users.map(({ Names }) => Names[0]?.slice(1) ?? '').filter((other) => other !== name)
  }
}

async function attempt<T>(what: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (error) {
    if ((error as { statusCode?: number }).statusCode === 404)
      throw new FlotillaError('NOT_FOUND', `${what}: there is none`, { cause: error })
    throw explainEngineError(error, what)
  }
}
