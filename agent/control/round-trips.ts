import { execFile } from 'node:child_process'
import type { RoundTrip } from './yielding.ts'

/** Older acknowledgements say nothing about the queues of now. */
const FRESH_MS = 1_500

/**
 * Asks the kernel for the round trips of the connections on the given ports, by `ss` of iproute2: TCP_INFO is not within
 * reach of Node, and times taken in this process would count its own waiting.
 * @returns undefined where there is no `ss`
 */
export function readRoundTrips(ports: readonly number[]): Promise<readonly RoundTrip[] | undefined> {
  const filter = ports.flatMap((port) => [`sport = :${port}`, `dport = :${port}`]).join(' or ')
  return new Promise((resolve) => {
    execFile('ss', ['-tinHO', 'state', 'established', `( ${filter} )`], { timeout: 2_000 }, (error, stdout) =>
      resolve(error === null ? parseRoundTrips(stdout) : undefined),
    )
  })
}

/** Parses `ss -tiO`: `rtt:1.2/0.5 … lastack:8 … minrtt:0.1` in every line. Lines without are skipped. */
export function parseRoundTrips(stdout: string): readonly RoundTrip[] {
  return stdout.split('\n').flatMap((line) => {
    const number = (pattern: RegExp) => Number(pattern.exec(line)?.[1] ?? Number.NaN)
    const rttMs = number(/ rtt:([\d.]+)\//)
    const leastMs = number(/ minrtt:([\d.]+)/)
    const ackMs = number(/ lastack:(\d+)/)
    const isFresh = Number.isNaN(ackMs) || ackMs <= FRESH_MS // left out when it is 0
    return isFresh && rttMs > 0 && leastMs > 0 ? [{ rttMs, leastMs }] : []
  })
}
