import { type JsonObject, shape } from '../../protocol/shape.ts'

/** What a device does for the backups of others, and how patient it is: `backups:` of `agent.yaml`. */
export type BackupConfig = {
  /** Room for replicas; 0 holds none. */
  readonly offeredBytes: number
  /** Largest repository of one device that is held. */
  readonly mostBytes: number
  /** How fast replicas are fetched; Infinity for as fast as the device's limits let it. */
  readonly bytesPerSecond: number
  /** A device not heard of for so long counts as absent. */
  readonly absentMs: number
  /** Until another holder takes the place of one that is absent, while two copies are left. */
  readonly repairMs: number
  /** For how long files stay that their owner does not list any more. */
  readonly deleteSeconds: number
  /** For how long a replica stays that others are to hold, once they do. */
  readonly surplusSeconds: number
  /** Every held file is hashed once in that time. */
  readonly scrubSeconds: number
  /** Between two proofs that a holder is asked for. */
  readonly proofMs: number
}

const DEFAULTS = {
  offerMiB: 4_096,
  perDeviceMiB: 4_096,
  fetchKiB: 0,
  absentSeconds: 3_600,
  repairSeconds: 86_400,
  deleteSeconds: 345_600,
  surplusSeconds: 172_800,
  scrubSeconds: 2_592_000,
  proofSeconds: 14_400,
} as const
const YEAR = 31_536_000

/** @throws FlotillaError FORMAT for keys that are not known */
export function toBackupConfig(json: JsonObject): BackupConfig {
  shape.onlyKeys(json, 'backups', Object.keys(DEFAULTS))
  const number = (key: keyof typeof DEFAULTS, min: number, max: number) =>
    shape.integer(json[key] ?? DEFAULTS[key], `backups.${key}`, min, max)
  const kib = number('fetchKiB', 0, 100_000_000)
  return {
    offeredBytes: number('offerMiB', 0, 100_000_000) * 2 ** 20,
    mostBytes: number('perDeviceMiB', 0, 100_000_000) * 2 ** 20,
    bytesPerSecond: kib === 0 ? Infinity : kib * 1_024,
    absentMs: number('absentSeconds', 1, YEAR) * 1_000,
    repairMs: number('repairSeconds', 1, YEAR) * 1_000,
    deleteSeconds: number('deleteSeconds', 1, YEAR),
    surplusSeconds: number('surplusSeconds', 1, YEAR),
    scrubSeconds: number('scrubSeconds', 1, YEAR),
    proofMs: number('proofSeconds', 1, YEAR) * 1_000,
  }
}
