import { createHash } from 'node:crypto'

/** A device that may hold a replica, as its record says and as it was last heard. */
export type Candidate = {
  readonly device: string
  readonly labels: Readonly<Record<string, string>>
  readonly offeredBytes: number
  readonly freeBytes: number
  readonly mostBytes: number
  /** Since it was heard last. */
  readonly ageMs: number
  /** What it has of this repository already; 0 when nothing. */
  readonly percent: number
  /** It holds as many repositories as it may. */
  readonly isFull: boolean
}

export type PlacementFacts = {
  readonly repository: string
  /** The device whose repository it is now; it holds none for itself. */
  readonly owner: {
    readonly device: string
    readonly labels: Readonly<Record<string, string>>
    readonly isHere: boolean
  }
  readonly copies: number
  readonly bytes: number
  readonly distrusted: readonly string[]
  readonly candidates: readonly Candidate[]
  readonly graces: PlacementGraces
}

/** How long a device may be silent: before it counts as absent, and before another takes its place while two copies are left. */
export type PlacementGraces = { readonly absentMs: number; readonly repairMs: number }

/** Holders that share one of these with the owner or each other may be lost together; a shared site is the worst. */
const DOMAINS = [
  ['site', 4],
  ['rack', 2],
  ['charger', 1],
] as const

/**
 * Chooses who holds a repository: weighted rendezvous hashing, so that every device that heard the same records names the
 * same holders, and one that comes or goes moves only what was its own. Pure.
 * A silent device keeps its place for `repairMs` while two whole copies are heard of, for `absentMs` when fewer are.
 * @returns device ids, at most `copies`, the best first
 * @see Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998; facts/distribution.md 4.5
 */
export function placeReplicas(facts: PlacementFacts): readonly string[] {
  const { repository, owner, copies, bytes, distrusted, candidates, graces } = facts
  const heard = candidates.filter(({ percent, ageMs }) => percent === 100 && ageMs <= graces.absentMs).length
  const patienceMs = heard + (owner.isHere ? 1 : 0) >= 2 ? graces.repairMs : graces.absentMs
  const left = candidates
    .filter(
      (one) =>
        one.device !== owner.device &&
        !distrusted.includes(one.device) &&
        one.ageMs <= patienceMs &&
        one.offeredBytes > 0 &&
        (one.percent > 0 || (!one.isFull && one.freeBytes >= bytes && one.mostBytes >= bytes)),
    )
    .map((one) => ({ ...one, score: scoreOf(repository, one) }))
    .sort((a, b) => b.score - a.score || (a.device < b.device ? -1 : 1))
  const chosen: typeof left = []
  while (chosen.length < copies && left.length > 0) {
    const near = [owner, ...chosen]
    const shared = left.map((one) => Math.max(...near.map((other) => nearness(one.labels, other.labels))))
    const [next] = left.splice(shared.indexOf(Math.min(...shared)), 1)
    if (next !== undefined) chosen.push(next)
  }
  return chosen.map(({ device }) => device)
}

/** Larger for devices that offer more: `-w / ln h` with h uniform in 0 … 1. */
function scoreOf(repository: string, { device, offeredBytes }: Candidate): number {
  const digest = createHash('sha256').update(`${repository}\0${device}`).digest()
  const uniform = (digest.readUIntBE(0, 6) + 0.5) / 2 ** 48
  return -offeredBytes / Math.log(uniform)
}

function nearness(a: Readonly<Record<string, string>>, b: Readonly<Record<string, string>>): number {
  return DOMAINS.reduce(
    (sum, [label, weight]) => sum + (a[label] !== undefined && a[label] === b[label] ? weight : 0),
    0,
  )
}
