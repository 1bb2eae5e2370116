import type { CheckResult } from './run-checks.ts'

/** What was true before the update and must be true again (facts/ota-systems.md N14). */
export type Baseline = {
  readonly peers: readonly string[]
  readonly engine: boolean
  readonly containers: readonly string[]
}

/** What is true now. `undefined`: could not be found out. */
export type Present = {
  readonly peers: readonly string[]
  readonly engine: boolean | undefined
  readonly containers: readonly string[] | undefined
}

export type BuiltInRules = {
  readonly peers: 'must' | 'should' | 'off'
  readonly engine: 'must' | 'should' | 'off'
  readonly containers: 'must' | 'should' | 'off'
}

/**
 * The built-in checks: what worked before the update works again. Never anything about the internet. Pure.
 * Peers: one of those that were connected before must be reached; with none before there is nothing to compare.
 */
export function judgeBaseline(before: Baseline, now: Present, rules: BuiltInRules): readonly CheckResult[] {
  const results: CheckResult[] = []
  const add = (name: keyof BuiltInRules, passed: boolean, reason: string) => {
    if (rules[name] !== 'off')
      results.push({
        name: `built-in/${name}`,
        must: rules[name] === 'must',
        passed,
        reason: passed ? '' : reason,
        log: '',
      })
  }
  if (before.peers.length > 0)
    add('peers', now.peers.length > 0, `no peer is reached; before the update there were ${before.peers.length}`)
  if (before.engine)
    add('engine', now.engine === true, 'the container engine does not answer; before the update it did')
  if (before.containers.length > 0) {
    const missing = before.containers.filter((name) => !(now.containers ?? []).includes(name))
    add('containers', missing.length === 0, `not running, but running before the update: ${missing.join(', ')}`)
  }
  return results
}

export type HealthVerdict =
  | { readonly verdict: 'healthy'; readonly warnings: readonly string[] }
  | { readonly verdict: 'wait' }
  | { readonly verdict: 'unhealthy'; readonly reason: string; readonly log: string }

/** Passed when every `must` passed; failed only when the deadline is over; until then it is worth waiting. Pure. */
export function judgeHealth(results: readonly CheckResult[], elapsedMs: number, deadlineMs: number): HealthVerdict {
  const failed = results.filter((result) => result.must && !result.passed)
  if (failed.length === 0) {
    return {
      verdict: 'healthy',
      warnings: results.filter((result) => !result.passed).map((result) => `${result.name}: ${result.reason}`),
    }
  }
  if (elapsedMs < deadlineMs) return { verdict: 'wait' }
  return {
    verdict: 'unhealthy',
    reason: failed
      .map((result) => `${result.name}: ${result.reason}`)
      .join('; ')
      .slice(0, 500),
    log: failed
      .map((result) => result.log)
      .join('\n')
      .slice(-2_000),
  }
}
