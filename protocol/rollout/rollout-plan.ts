import { createHash } from 'node:crypto'
import { FlotillaError } from '../errors.ts'
import { shape } from '../shape.ts'

/** In which order devices may boot a release. Part of the signed release description. */
export type RolloutPlan = {
  /** Devices with all of these labels boot first; none when empty. */
  readonly canaries: Readonly<Record<string, string>>
  /** Rising shares of the fleet in percent; the last is 100. Each is a wave. */
  readonly shares: readonly number[]
  /** How many of the devices heard of in a wave must be healthy before the next one opens, percent. */
  readonly healthyPercent: number
  /** For how long a device must have run the release, proven, to count as healthy. */
  readonly soakSeconds: number
  /** A device that hears nothing of the waves before its own waits this long for each of them, while it is switched on. */
  readonly patienceSeconds: number
  /** Devices of this board that the operator knows of; 0 when unknown. Lets a small fleet see that a wave is empty. */
  readonly devices: number
  /** So many failed trials, and at least this share of all trials, halt the release by themselves; 0 never does. */
  readonly maxFailed: number
  readonly maxFailedPercent: number
  /** Devices with the same label `cell` that may reboot at once; 0 for no limit. */
  readonly rebootsPerCell: number
}

/** What holds for a release that says nothing: everyone at once, as before there were waves. */
export const NO_ROLLOUT: RolloutPlan = {
  canaries: {},
  shares: [100],
  healthyPercent: 80,
  soakSeconds: 600,
  patienceSeconds: 86_400,
  devices: 0,
  maxFailed: 0,
  maxFailedPercent: 20,
  rebootsPerCell: 0,
}

/** The label that names a device's neighbourhood. */
export const CELL_LABEL = 'cell'

const MAX_SECONDS = 30 * 86_400

/**
 * Parses the plan of a release description; members that are missing have the values of NO_ROLLOUT.
 * @throws FlotillaError FORMAT
 */
export function parseRolloutPlan(value: unknown, path: string): RolloutPlan {
  if (value === undefined) return NO_ROLLOUT
  const json = { ...NO_ROLLOUT, ...shape.object(value, path) }
  const shares = shape
    .array(json.shares, `${path}.shares`, 16)
    .map((share, at) => shape.integer(share, `${path}.shares[${at}]`, 1, 100))
  if (shares.at(-1) !== 100 || shares.some((share, at) => share <= (shares[at - 1] ?? 0))) {
    throw new FlotillaError('FORMAT', `${path}.shares: wanted rising percentages that end with 100, found ${shares}`)
  }
  const canaries = Object.entries(shape.object(json.canaries, `${path}.canaries`))
  if (canaries.length > 8) throw new FlotillaError('FORMAT', `${path}.canaries: more than 8 labels`)
  const whole = (key: keyof RolloutPlan, min: number, max: number) =>
    shape.integer(json[key], `${path}.${key}`, min, max)
  return {
    canaries: Object.fromEntries(
      canaries.map(([key, label]) => [key, shape.string(label, `${path}.canaries.${key}`, 64)]),
    ),
    shares,
    healthyPercent: whole('healthyPercent', 1, 100),
    soakSeconds: whole('soakSeconds', 0, MAX_SECONDS),
    patienceSeconds: whole('patienceSeconds', 1, MAX_SECONDS),
    devices: whole('devices', 0, 1_000_000),
    maxFailed: whole('maxFailed', 0, 1_000_000),
    maxFailedPercent: whole('maxFailedPercent', 0, 100),
    rebootsPerCell: whole('rebootsPerCell', 0, 1_000_000),
  }
}

/** How many waves a plan has, the canaries' included. */
export function waveCount(plan: RolloutPlan): number {
  return plan.shares.length + (hasCanaries(plan) ? 1 : 0)
}

/**
 * The wave of a device, 0 first. Decided by labels and by a hash of release and device, so that every device computes
 * the same, and another release begins with other devices.
 */
export function waveOf(
  plan: RolloutPlan,
  releaseId: string,
  device: string,
  labels: Readonly<Record<string, string>>,
): number {
  if (hasCanaries(plan) && Object.entries(plan.canaries).every(([key, label]) => labels[key] === label)) return 0
  const percent = (rankOf(releaseId, device) * 100) / 2 ** 48
  const share = plan.shares.findIndex((limit) => percent < limit)
  return share + (hasCanaries(plan) ? 1 : 0)
}

/** A number from 0 to 2^48 - 1 that orders the devices of a release; everyone computes the same. */
export function rankOf(releaseId: string, device: string): number {
  return createHash('sha256').update(`${releaseId}\n${device}`).digest().readUIntBE(0, 6)
}

function hasCanaries(plan: RolloutPlan): boolean {
  return Object.keys(plan.canaries).length > 0
}
