import { execFile } from 'node:child_process'
import type { RoundTrip } from './yielding.ts'

/** Older acknowledgements say nothing about the queues of now. */
const FRESH_MS = 1_500

/** A connection as the kernel counts it. @property totalBytes - both directions, since it was made */
type Counted = Omit<RoundTrip, 'movedBytes'> & { readonly connection: string; readonly totalBytes: number }

/**
 * Asks the kernel for the round trips of connections, by `ss` of iproute2: TCP_INFO is not within reach of Node, and times
 * taken in this process would count its own waiting.
 */
export class RoundTripWatch {
  #totals: ReadonlyMap<string, number> = new Map()

  /**
   * The connections on the given ports, with what moved on each since the last look.
   * @returns undefined where there is no `ss`
   */
  async look(ports: readonly number[]): Promise<readonly RoundTrip[] | undefined> {
    const filter = ports.flatMap((port) => [`sport = :${port}`, `dport = :${port}`]).join(' or ')
    const stdout = await new Promise<string | undefined>((resolve) => {
      const args = ['-tinHO', 'state', 'established', `( ${filter} )`]
      execFile('ss', args, { timeout: 2_000 }, (error, text) => resolve(error === null ? text : undefined))
    })
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
