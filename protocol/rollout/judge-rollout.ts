import { compareSequence, type Sequence } from '../release/judge-install.ts'
import { CELL_LABEL, rankOf, type RolloutPlan, waveOf } from './rollout-plan.ts'

/** Another device of the same board and channel, as its signed record says. */
export type RolloutPeer = {
  readonly device: string
  readonly labels: Readonly<Record<string, string>>
  readonly running: (Sequence & { readonly id: string }) | undefined
  /** Has run its release, proven, for as long as that release asks for. */
  readonly soaked: boolean
  /** The release whose trial failed there last. */
  readonly failedId: string | undefined
  /** Armed or on trial: its reboot is under way. */
  readonly rebooting: boolean
  /** The release it would reboot for now, if its neighbours let it. */
  readonly wishes: string | undefined
  /** Since its record was renewed, as far as is known here. */
  readonly ageMs: number
}

/** The release that waits, and the device that asks itself whether it may boot it. */
export type RolloutQuestion = {
  readonly release: Sequence & { readonly id: string; readonly plan: RolloutPlan }
  readonly device: { readonly id: string; readonly labels: Readonly<Record<string, string>> }
  readonly peers: readonly RolloutPeer[]
  /** For how long the release has been ready here while the device was on, over restarts. */
  readonly waitedMs: number
  /** Waves below this one are open because the operator says so. */
  readonly openWaves: number
}

/** Whether a step of the rollout may be taken now, and else what it waits for. */
export type RolloutVerdict = { readonly open: true } | { readonly open: false; readonly reason: string }

const OPEN = { open: true } as const
/** Devices at rest speak every ten minutes in fleets of up to 200: who is silent for less is not gone, however short the patience. */
const HEARD_MS = 20 * 60_000

/**
 * Whether the device's wave is open. Pure. Every device judges for itself by the records it has heard:
 * all waves before its own must have enough healthy devices among those heard of lately. A wave of which nobody was heard
 * counts as passed only when the whole fleet is in sight; else the device waits `patienceSeconds` for each wave before
 * its own, so that a device that is cut off neither jumps the queue nor waits for ever.
 * @see protocol/spec/rollout.md, "Waves"
 */
export function judgeWave(question: RolloutQuestion): RolloutVerdict {
  const { release, device, peers, waitedMs, openWaves } = question
  const { plan } = release
  const own = waveOf(plan, release.id, device.id, device.labels)
  if (own < openWaves || own === 0) return OPEN
  if (waitedMs >= own * plan.patienceSeconds * 1_000) return OPEN
  const heard = peers
    .filter((peer) => peer.ageMs <= Math.max(HEARD_MS, plan.patienceSeconds * 1_000))
    .map((peer) => ({ ...peer, wave: waveOf(plan, release.id, peer.device, peer.labels) }))
  const allInSight = plan.devices > 0 && (heard.length + 1) * 100 >= plan.devices * 90
  for (let wave = 0; wave < own; wave += 1) {
    const members = heard.filter((peer) => peer.wave === wave)
    const healthy = members.filter((peer) => isHealthyOn(peer, release)).length
    if (members.length === 0 && allInSight) continue
    if (members.length === 0) return closed(own, `nothing heard of wave ${wave}`, question)
    if (healthy * 100 < members.length * plan.healthyPercent) {
      return closed(own, `wave ${wave} has ${healthy} of ${members.length} healthy`, question)
    }
  }
  return OPEN
}

function closed(own: number, why: string, { release, waitedMs }: RolloutQuestion): RolloutVerdict {
  const left = Math.ceil((own * release.plan.patienceSeconds * 1_000 - waitedMs) / 60_000)
  return { open: false, reason: `wave ${own} is not open: ${why}; opens by itself in ${left} min` }
}

function isHealthyOn(peer: RolloutPeer, release: Sequence & { readonly id: string }): boolean {
  if (peer.running === undefined || peer.rebooting) return false
  return peer.running.id === release.id ? peer.soaked : compareSequence(peer.running, release) > 0
}

/**
 * Why the release must be halted, or undefined: too many of the devices that tried it failed. Pure.
 * Counts every record that is still passed on, however old: a failure does not become untrue.
 * @see protocol/spec/rollout.md, "Halt"
 */
export function judgeFailures(
  release: { readonly id: string; readonly plan: RolloutPlan },
  peers: readonly RolloutPeer[],
): string | undefined {
  const { maxFailed, maxFailedPercent } = release.plan
  if (maxFailed === 0) return undefined
  const failed = peers.filter((peer) => peer.failedId === release.id).length
  const passed = peers.filter((peer) => peer.running?.id === release.id && peer.failedId !== release.id).length
  if (failed < maxFailed || failed * 100 < (failed + passed) * maxFailedPercent) return undefined
  return `${failed} of ${failed + passed} devices that tried it fell back`
}

/** A wish to reboot must have been heard for so long before it is acted on: others may have wished at the same moment. */
export const WISH_SETTLE_MS = 4_000
/** A wish that was not renewed for so long (three heartbeats of a record) is that of a device that went away. */
export const WISH_STALE_MS = 150_000

/** What a device asks before it reboots: its place in its cell. */
export type LeaseQuestion = {
  readonly release: { readonly id: string; readonly plan: RolloutPlan }
  readonly device: { readonly id: string; readonly labels: Readonly<Record<string, string>> }
  readonly peers: readonly RolloutPeer[]
  /** How long this device's record has carried the wish; 0 when it does not yet. */
  readonly wishedMs: number
  /** The longest that a reboot and its trial can take: a holder that is silent for longer is gone. */
  readonly leaseMs: number
}

/**
 * Whether the device may reboot as far as its cell is concerned. Pure. There is no lock server: a device wishes aloud,
 * waits until the wish must have been heard, and goes when those that reboot and those that wish with a better rank are
 * fewer than the limit. Holds among devices that hear each other.
 * @see protocol/spec/rollout.md, "Reboot leases"
 */
export function judgeLease(question: LeaseQuestion): RolloutVerdict {
  const { release, device, peers, wishedMs, leaseMs } = question
  const cell = device.labels[CELL_LABEL]
  const limit = release.plan.rebootsPerCell
  if (cell === undefined || limit === 0) return OPEN
  const neighbours = peers.filter((peer) => peer.labels[CELL_LABEL] === cell)
  const holders = neighbours.filter((peer) => peer.rebooting && peer.ageMs <= leaseMs)
  const own = rankOf(release.id, device.id)
  const before = neighbours.filter(
    (peer) =>
      !peer.rebooting &&
      peer.wishes !== undefined &&
      peer.ageMs <= WISH_STALE_MS &&
      goesBefore(rankOf(peer.wishes, peer.device), peer.device, own, device.id),
  )
  if (holders.length + before.length >= limit) {
    const names = [...holders, ...before].length
    return { open: false, reason: `cell ${cell}: ${names} reboot or go first, ${limit} at once` }
  }
  if (wishedMs < WISH_SETTLE_MS) return { open: false, reason: `cell ${cell}: asks its neighbours` }
  return OPEN
}

function goesBefore(rank: number, device: string, ownRank: number, ownDevice: string): boolean {
  return rank === ownRank ? device < ownDevice : rank < ownRank
}
