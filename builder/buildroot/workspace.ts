import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { FlotillaError, isFlotillaError } from '../../protocol/errors.ts'
import { parseJson, shape } from '../../protocol/shape.ts'

/** What a workspace was configured from last. */
export type WorkspaceState = {
  readonly config: string
  readonly sha256: string
  readonly buildroot: string
  readonly cflags: string
}

const MAX_STATE_BYTES = 65_536

/**
 * A build directory: `workspaces/<name>` is Buildroot's output, `workspaces/.config_<name>` what was generated for it.
 * The names are SkiffOS's. Several can be worked on at once, each by one process.
 */
export class Workspace {
  readonly name: string
  /** Buildroot's `O=`. */
  readonly output: string
  /** Generated files. */
  readonly generated: string
  /** Source archives; its own, unless BR2_DL_DIR says otherwise. */
  readonly downloads: string

  /** @throws FlotillaError BAD_INPUT for a path with a space, which make cannot have */
  constructor(root: string, name: string, environment: Readonly<Record<string, string | undefined>>) {
    this.name = name
    this.output = resolve(root, 'workspaces', name)
    this.generated = resolve(root, 'workspaces', `.config_${name}`)
    this.downloads = resolve(environment['BR2_DL_DIR'] ?? join(root, 'workspaces', '.downloads', name))
    for (const path of [this.output, this.downloads]) requireNoSpace(path)
  }

  make(): void {
    for (const path of [this.output, this.generated, this.downloads]) mkdirSync(path, { recursive: true })
    // SkiffOS's hooks speak of `output/images`.
    const link = join(this.output, 'output')
    if (!existsSync(link)) symlinkSync('.', link)
  }

  /** What it was configured from, undefined when it never was or that cannot be read. */
  state(): WorkspaceState | undefined {
    const file = join(this.generated, 'state.json')
    if (!existsSync(file)) return undefined
    try {
      const json = shape.object(parseJson(readFileSync(file), file, MAX_STATE_BYTES), file)
      const text = (key: string) => shape.string(json[key], `${file}: ${key}`, 16_384)
      return { config: text('config'), sha256: text('sha256'), buildroot: text('buildroot'), cflags: text('cflags') }
    } catch (error) {
      if (isFlotillaError(error)) return undefined // configured anew
      throw error
    }
  }

  save(state: WorkspaceState): void {
    writeFileSync(join(this.generated, 'state.json'), `${JSON.stringify(state, null, 2)}\n`)
  }

  /**
   * Takes the workspace for this process.
   * @returns gives it back
   * @throws FlotillaError BUSY while another process has it
   */
  lock(): () => void {
    mkdirSync(this.generated, { recursive: true })
    const file = join(this.generated, 'lock')
    for (let attempt = 0; ; attempt += 1) {
      try {
        writeFileSync(file, `${process.pid} ${startOf(process.pid)}\n`, { flag: 'wx' })
        return () => rmSync(file, { force: true })
      } catch (cause) {
        const [pid = '', start = ''] = existsSync(file) ? readFileSync(file, 'latin1').trim().split(' ') : []
        if (attempt > 0 || (start !== '' && startOf(Number(pid)) === start))
          throw new FlotillaError(
            'BUSY',
            `workspace ${this.name}: process ${pid} is building in it; use another SKIFF_WORKSPACE`,
            { cause },
          )
        rmSync(file, { force: true }) // left behind by a process that is gone
      }
    }
  }
}

/** When a process was started, in ticks since boot: a number that comes again would be another process's. */
function startOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ').at(-1)?.split(' ')[19] ?? ''
  } catch {
    return ''
  }
}

/** @throws FlotillaError BAD_INPUT */
export function requireNoSpace(path: string): void {
  if (/\s/.test(path))
    throw new FlotillaError('BAD_INPUT', `build in ${JSON.stringify(path)}: make cannot have spaces in a path; move it`)
}
