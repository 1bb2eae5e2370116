import { spawn } from 'node:child_process'
import { setTimeout as pause } from 'node:timers/promises'
import { type ErrorCode, FlotillaError, isFlotillaError } from '../../protocol/errors.ts'
import { shape } from '../../protocol/shape.ts'

/** Share that is done, 0 … 1, and what is being done. */
export type OnProgress = (share: number, text: string) => void

/** One backup as restic lists it. */
export type ListedBackup = {
  readonly id: string
  /** ISO 8601. */
  readonly time: string
  readonly tags: readonly string[]
}

/** Directories that are shown to restic below one staging directory, each at a fixed name. */
export type Staging = { readonly directory: string; readonly mounts: readonly StageMount[] }
export type StageMount = {
  readonly at: string
  /** A file or directory to be seen there as it is, or layers of an overlay, the uppermost first, to be seen as one. */
  readonly source: string | readonly string[]
}

export type RunOptions = {
  readonly signal: AbortSignal
  readonly onProgress?: OnProgress
  readonly staging?: Staging
  /** Exit codes that are no failure. */
  readonly okCodes?: readonly number[]
}

export type ResticResult = { readonly code: number; readonly out: string; readonly words: string }

/** Of what it prints; a list of some thousand backups is below. */
const MAX_OUTPUT = 16 * 2 ** 20
const MAX_WORDS = 65_536
const GRACE_MS = 10_000
/** Another restic (an agent that was killed left it, or a person runs it) is waited for so long. */
const LOCKED = { tries: 20, pauseMs: 3_000 } as const

/** What restic says, as our codes. The first that fits. */
const CAUSES: readonly (readonly [RegExp, ErrorCode])[] = [
  [/no space left|disk quota exceeded/i, 'NOT_ENOUGH_SPACE'],
  [/wrong password|no key found/i, 'WRONG_PASSPHRASE'],
  [/already locked|unable to create lock/i, 'BUSY'],
  [
    /verification failed|does not match|damaged|hash mismatch|invalid data|missing from|not found in|pack .* (?:invalid|contains)|load <|unexpected EOF|errors? were found|repository contains errors/i,
    'VERIFY_FAILED',
  ],
  [/no matching ID|no snapshot found|unable to open config file|Is there a repository/i, 'NOT_FOUND'],
]

/**
 * The `restic` program on one repository. Its passwords come from a file, so they stand in no list of processes.
 * @see restic, "Scripting": exit codes and `--json`
 */
export class Restic {
  readonly repository: string
  readonly #passwordFile: string

  constructor(repository: string, passwordFile: string) {
    this.repository = repository
    this.#passwordFile = passwordFile
  }

  async init(signal: AbortSignal): Promise<void> {
    await this.run(['init', '--repository-version', '2'], { signal })
  }

  /**
   * Backs up what the staging shows.
   * @param host - restic's word for whose it is; with the staging directory it finds the backup before
   * @returns its id, and what could not be read
   */
  async backup(
    staging: Staging,
    { host, tags, time, exclude }: { host: string; tags: readonly string[]; time: Date; exclude: readonly string[] },
    options: Omit<RunOptions, 'staging'>,
  ): Promise<{
    readonly id: string
    readonly addedBytes: number
    readonly totalBytes: number
    readonly unread: string
  }> {
    const args = ['backup', '--json', '--host', host, '--time', resticTime(time)]
    for (const tag of tags) args.push('--tag', tag)
    for (const pattern of exclude) args.push('--exclude', pattern)
    const { out, words, code } = await this.run([...args, '.'], { ...options, staging, okCodes: [0, 3] })
    const last = out.trimEnd().split('\n').at(-1) ?? ''
    const summary = shape.object(parseLine(last) ?? {}, 'restic backup')
    const number = (key: string) => shape.integer(summary[key], `restic backup: ${key}`, 0)
    return {
      id: shape.string(summary['snapshot_id'], 'restic backup: snapshot_id', 64),
      addedBytes: number('data_added'),
      totalBytes: number('total_bytes_processed'),
      unread: code === 3 ? firstWords(words) : '',
    }
  }

  async list(signal: AbortSignal, tag?: string): Promise<readonly ListedBackup[]> {
    const { out } = await this.run(['snapshots', '--json', ...(tag === undefined ? [] : ['--tag', tag])], { signal })
    const found = shape.array(JSON.parse(out === '' ? '[]' : out) ?? [], 'restic snapshots', 100_000).map((item) => {
      const json = shape.object(item, 'restic snapshots[]')
      return {
        id: shape.string(json['id'], 'restic snapshots[].id', 64),
        time: shape.string(json['time'], 'restic snapshots[].time', 64),
        tags: shape
          .array(json['tags'] ?? [], 'restic snapshots[].tags', 64)
          .map((one) => shape.string(one, 'tag', 256)),
      }
    })
    return found.sort((a, b) => Date.parse(a.time) - Date.parse(b.time))
  }

  /** Writes a backup into what the staging shows, and reads it back. */
  async restore(
    id: string,
    staging: Staging,
    exclude: readonly string[],
    options: Omit<RunOptions, 'staging'>,
  ): Promise<void> {
    const without = exclude.flatMap((path) => ['--exclude', path])
    await this.run(['restore', id, '--target', staging.directory, '--verify', ...without], { ...options, staging })
  }

  /** One file of a backup. */
  async read(id: string, path: string, signal: AbortSignal): Promise<string> {
    return (await this.run(['dump', id, path], { signal })).out
  }

  /** @param readData - also reads and decrypts every pack */
  async check(readData: boolean, options: RunOptions): Promise<void> {
    await this.run(['check', ...(readData ? ['--read-data'] : [])], options)
  }

  async diff(older: string, newer: string, signal: AbortSignal): Promise<string> {
    return (await this.run(['diff', older, newer], { signal })).out
  }

  /** Runs it to its end; waits for another that has the repository locked, once what dead ones left is taken away. */
  async run(args: readonly string[], options: RunOptions): Promise<ResticResult> {
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.#once(args, options)
      } catch (error) {
        if (!isFlotillaError(error, 'BUSY') || tries === LOCKED.tries) throw error
        await this.#once(['unlock'], { signal: options.signal })
        if (tries > 1) await pause(LOCKED.pauseMs, undefined, { signal: options.signal })
      }
    }
  }

  #once(args: readonly string[], options: RunOptions): Promise<ResticResult> {
    const { signal, staging, okCodes = [0], onProgress } = options
    signal.throwIfAborted()
    const command = ['restic', '--no-cache', ...args]
    const [program = '', ...rest] = staging === undefined ? command : inStaging(staging, command)
    const what = `restic ${args[0]} in ${this.repository}`
    return new Promise((resolve, reject) => {
      const child = spawn(program, rest, {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: {
          ...process.env,
          RESTIC_REPOSITORY: this.repository,
          RESTIC_PASSWORD_FILE: this.#passwordFile,
          RESTIC_PROGRESS_FPS: '2',
        },
      })
      const output = new OutputLines(onProgress)
      let words = ''
      let kill: NodeJS.Timeout | undefined
      const abort = () => {
        child.kill('SIGINT') // then it takes its lock away
        kill = setTimeout(() => child.kill('SIGKILL'), GRACE_MS)
      }
      signal.addEventListener('abort', abort)
      child.stdout.setEncoding('utf8').on('data', (part: string) => output.take(part))
      child.stderr.setEncoding('utf8').on('data', (part: string) => (words = (words + part).slice(-MAX_WORDS)))
      child.once('error', (cause) =>
        reject(
          new FlotillaError('NOT_FOUND', `${what}: ${program} is not on this device; its image needs it`, { cause }),
        ),
      )
      child.once('close', (code, killedBy) => {
        clearTimeout(kill)
        signal.removeEventListener('abort', abort)
        if (signal.aborted) reject(signal.reason instanceof Error ? signal.reason : new Error('stopped'))
        else if (code !== null && okCodes.includes(code)) resolve({ code, out: output.text, words })
        else reject(explain(what, words, killedBy === null ? `exit code ${code}` : `ended by ${killedBy}`))
      })
    })
  }
}

/** Keeps what is printed but for progress, which it tells. */
class OutputLines {
  text = ''
  readonly #onProgress: OnProgress | undefined
  #rest = ''

  constructor(onProgress: OnProgress | undefined) {
    this.#onProgress = onProgress
  }

  take(part: string): void {
    if (this.#onProgress === undefined) {
      if (this.text.length < MAX_OUTPUT) this.text += part
      return
    }
    const lines = (this.#rest + part).split('\n')
    this.#rest = lines.pop() ?? ''
    for (const line of lines) {
      const json = parseLine(line)
      if (json?.['message_type'] === 'status')
        this.#onProgress(
          Number(json['percent_done'] ?? 0),
          String((json['current_files'] as string[] | undefined)?.[0] ?? ''),
        )
      else if (this.text.length < MAX_OUTPUT) this.text += `${line}\n`
    }
  }
}

/** A private view of the file system: what is mounted there nobody else sees, and it goes with the program. */
function inStaging({ directory, mounts }: Staging, command: readonly string[]): readonly string[] {
  const script: string[] = ['set -e']
  const args: string[] = []
  const next = (value: string) => `"\${${args.push(value)}}"`
  for (const { at, source } of mounts) {
    const place = next(`${directory}/${at}`)
    if (typeof source === 'string') script.push(`mount --bind ${next(source)} ${place}`)
    else script.push(`mount -t overlay -o ${next(`ro,lowerdir=${source.map(escapeLayer).join(':')}`)} overlay ${place}`)
  }
  script.push(`cd ${next(directory)}`, `shift ${args.length}`, 'exec "$@"')
  return ['unshare', '--mount', 'sh', '-c', script.join('\n'), 'sh', ...args, ...command]
}

/** Colons and commas part layers and options. */
function escapeLayer(path: string): string {
  return path.replace(/[\\:,]/g, '\\$&')
}

function resticTime(time: Date): string {
  const two = (number: number) => String(number).padStart(2, '0')
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`
}

function parseLine(line: string): Record<string, unknown> | undefined {
  try {
    const json: unknown = JSON.parse(line)
    return typeof json === 'object' && json !== null ? (json as Record<string, unknown>) : undefined
  } catch {
    return undefined // words for a person
  }
}

function explain(what: string, words: string, end: string): FlotillaError {
  const code = CAUSES.find(([pattern]) => pattern.test(words))?.[1] ?? 'DISK_FAILED'
  return new FlotillaError(code, `${what}: ${firstWords(words) || end}`)
}

function firstWords(words: string): string {
  const lines = words.split('\n').flatMap((line) => {
    const json = parseLine(line)
    const said = json === undefined ? line : `${String(json['item'] ?? '')} ${JSON.stringify(json['error'] ?? '')}`
    return said.trim() === '' ? [] : [said.trim()]
  })
  return lines.slice(0, 3).join('; ').slice(0, 500)
}
