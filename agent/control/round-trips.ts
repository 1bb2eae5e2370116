import { type ChildProcess, spawn } from 'node:child_process'
import type { RoundTrip } from './yielding.ts'

/** Older acknowledgements say nothing about the queues of now. */
const FRESH_MS = 1_500
const TIMEOUT_MS = 2_000
/** Without a question for so long the helper ends. */
const IDLE_MS = 30_000
/** Ends each answer, with the exit code of `ss`. */
const END = /(?:^|\n)end (\d+)\n$/
/** More than any number of connections of ours prints. */
const MAX_ANSWER = 2 ** 20

/** A connection as the kernel counts it. @property totalBytes - both directions, since it was made */
type Counted = Omit<RoundTrip, 'movedBytes'> & { readonly connection: string; readonly totalBytes: number }

/**
 * Asks the kernel for the round trips of connections, by `ss` of iproute2: TCP_INFO is not within reach of Node, and times
 * taken in this process would count its own waiting. A small shell starts `ss`, since a process of the agent's size takes
 * milliseconds to fork: nine agents that asked every second spent a tenth of their processor time on it.
 */
export class RoundTripWatch {
  #totals: ReadonlyMap<string, number> = new Map()
  #helper: Helper | undefined
  #isStopped = false

  /**
   * The connections on the given ports, with what moved on each since the last look.
   * @returns undefined where there is no `ss`
   */
  async look(ports: readonly number[]): Promise<readonly RoundTrip[] | undefined> {
    if (this.#isStopped) return undefined
    const filter = `( ${ports.flatMap((port) => [`sport = :${port}`, `dport = :${port}`]).join(' or ')} )`
    if (this.#helper?.filter !== filter || this.#helper.ended) {
      this.#helper?.end()
      this.#helper = new Helper(filter)
    }
    const stdout = await this.#helper.ask()
    if (stdout === undefined) return undefined
    const counted = parseRoundTrips(stdout)
    const before = this.#totals
    this.#totals = new Map(counted.map(({ connection, totalBytes }) => [connection, totalBytes]))
    return counted.map(({ connection, totalBytes, rttMs, leastMs }) => ({
      rttMs,
      leastMs,
      movedBytes: Math.max(0, totalBytes - (before.get(connection) ?? 0)),
    }))
  }

  stop(): void {
    this.#isStopped = true
    this.#helper?.end()
  }
}

/** A shell that runs `ss` once for each line it reads. It ends with its input: when the agent does, however that ends. */
class Helper {
  readonly filter: string
  readonly #shell: ChildProcess
  #text = ''
  #answer: ((text: string | undefined) => void) | undefined
  #idle: NodeJS.Timeout | undefined
  ended = false

  constructor(filter: string) {
    this.filter = filter
    const script = `while read -r _; do ss -tinHO state established '${filter}'; echo "end $?"; done`
    // A group of its own, so that an `ss` that hangs ends with it.
    this.#shell = spawn('sh', ['-c', script], { stdio: ['pipe', 'pipe', 'ignore'], detached: true })
    this.#shell.on('error', () => this.end())
    this.#shell.on('close', () => this.end())
    this.#shell.stdin?.on('error', () => this.end())
    this.#shell.stdout?.setEncoding('utf8').on('data', (part: string) => this.#take(part))
    this.#shell.unref()
  }

  /** @returns what `ss` printed, undefined when it failed or took too long; one question at a time */
  async ask(): Promise<string | undefined> {
    if (this.ended || this.#answer !== undefined) return undefined
    clearTimeout(this.#idle)
    this.#text = ''
    const answer = await new Promise<string | undefined>((resolve) => {
      const timer = setTimeout(() => this.end(), TIMEOUT_MS)
      this.#answer = (text) => {
        clearTimeout(timer)
        this.#answer = undefined
        resolve(text)
      }
      this.#shell.stdin?.write('\n')
    })
    this.#idle = setTimeout(() => this.end(), IDLE_MS).unref()
    return answer
  }

  end(): void {
    if (this.ended) return
    this.ended = true
    clearTimeout(this.#idle)
    this.#answer?.(undefined)
    this.#shell.stdin?.destroy()
    try {
      if (this.#shell.pid !== undefined) process.kill(-this.#shell.pid, 'SIGKILL')
    } catch {
      // it has ended
    }
  }

  #take(part: string): void {
    this.#text += part
    if (this.#text.length > MAX_ANSWER) return this.end()
    const [end, code] = END.exec(this.#text) ?? []
    if (end !== undefined) this.#answer?.(code === '0' ? this.#text.slice(0, -end.length) : undefined)
  }
}

/** Parses `ss -tiO`: addresses, then `rtt:1.2/0.5 bytes_acked:7 … lastack:8 … minrtt:0.1` in every line. Lines without are skipped. */
export function parseRoundTrips(stdout: string): readonly Counted[] {
  return stdout.split('\n').flatMap((line) => {
    const number = (pattern: RegExp) => Number(pattern.exec(line)?.[1] ?? Number.NaN)
    const rttMs = number(/ rtt:([\d.]+)\//)
    const leastMs = number(/ minrtt:([\d.]+)/)
    const ackMs = number(/ lastack:(\d+)/)
    const connection = /(\S+:\d+\s+\S+:\d+)\s/.exec(line)?.[1] ?? ''
    const totalBytes = (number(/ bytes_acked:(\d+)/) || 0) + (number(/ bytes_received:(\d+)/) || 0)
    const isFresh = Number.isNaN(ackMs) || ackMs <= FRESH_MS // left out when it is 0
    return isFresh && rttMs > 0 && leastMs > 0 ? [{ connection, rttMs, leastMs, totalBytes }] : []
  })
}
