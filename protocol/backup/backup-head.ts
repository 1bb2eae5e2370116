import type { DeviceRecord } from '../gossip/device-record.ts'
import type { FleetPolicy } from '../membership/fleet-policy.ts'
import { FlotillaError } from '../errors.ts'
import { type JsonObject, shape } from '../shape.ts'
import { MAX_LIST_BYTES } from './repository-list.ts'
import { parseRepositoryName, REPOSITORY_PATTERN } from './repository-name.ts'
import { MAX_SEALED_HEX } from './seal.ts'

/** What a device says of its backup repository: which files are in it, and how many copies it wants of them. */
export type BackupHead = {
  /** `<device id>.<line>`. */
  readonly repository: string
  /** 0 for the device that began it; rises with every device that takes it over. */
  readonly epoch: number
  readonly seq: number
  /** SHA-256 of the list of its files. */
  readonly list: string
  readonly listBytes: number
  readonly bytes: number
  /** Copies on other devices that are wanted. */
  readonly copies: number
  /** How fast a holder may fetch, bytes per second; 0 for no limit of its own. */
  readonly bytesPerSecond: number
  /** Seconds since the last backup, in whole hours: no two clocks are compared. */
  readonly hoursOld: number
  /** The repository's password, sealed to the fleet's recovery key; empty when the fleet has none. */
  readonly sealed: string
  /** Holders that could not prove what they said they hold. */
  readonly distrusted: readonly string[]
}

/** What a device offers to others, and what it holds of theirs. */
export type HolderState = {
  /** Room for replicas, bytes, and how much of it is free. */
  readonly offeredBytes: number
  readonly freeBytes: number
  /** Largest repository that it takes. */
  readonly mostBytes: number
  readonly replicas: readonly ReplicaState[]
  /** To which passwords of repositories are sealed that this device is to take over: X25519, hex. */
  readonly sealKey: string
}

export type ReplicaState = {
  readonly repository: string
  readonly epoch: number
  readonly seq: number
  /** 100 when every file of that head is here, hashed after it was written. */
  readonly percent: number
  /** Days since the file that was hashed longest ago was. */
  readonly daysUnchecked: number
}

/** Repositories of others on one device; they stand in its record, which is small. */
export const MAX_REPLICAS = 16
const MAX_DISTRUSTED = 8
const MAX_COUNT = 2 ** 40

/** @throws FlotillaError FORMAT */
export function parseBackupHead(json: JsonObject, what: string): BackupHead {
  const count = (key: string, max = MAX_COUNT) => shape.integer(json[key], `${what}.${key}`, 0, max)
  return {
    repository: repositoryIn(json, what),
    epoch: count('epoch', 1_000_000),
    seq: count('seq'),
    list: shape.hex32(json['list'], `${what}.list`),
    listBytes: count('listBytes', MAX_LIST_BYTES),
    bytes: count('bytes', Number.MAX_SAFE_INTEGER),
    copies: count('copies', 64),
    bytesPerSecond: count('bytesPerSecond'),
    hoursOld: count('hoursOld'),
    sealed: shape.matching(json['sealed'], `${what}.sealed`, SEALED_PATTERN, 'hexadecimal digits'),
    distrusted: shape
      .array(json['distrusted'], `${what}.distrusted`, MAX_DISTRUSTED)
      .map((id) => shape.string(id, `${what}.distrusted[]`, 128)),
  }
}

/** @throws FlotillaError FORMAT */
export function parseHolderState(json: JsonObject, what: string): HolderState {
  const bytes = (key: string) => shape.integer(json[key], `${what}.${key}`, 0)
  return {
    offeredBytes: bytes('offeredBytes'),
    freeBytes: bytes('freeBytes'),
    mostBytes: bytes('mostBytes'),
    replicas: shape.array(json['replicas'], `${what}.replicas`, MAX_REPLICAS).map((item) => {
      const replica = shape.object(item, `${what}.replicas[]`)
      const count = (key: string, max: number) => shape.integer(replica[key], `${what}.replicas[].${key}`, 0, max)
      return {
        repository: repositoryIn(replica, `${what}.replicas[]`),
        epoch: count('epoch', 1_000_000),
        seq: count('seq', MAX_COUNT),
        percent: count('percent', 100),
        daysUnchecked: count('daysUnchecked', 100_000),
      }
    }),
    sealKey: shape.hex32(json['sealKey'], `${what}.sealKey`),
  }
}

const SEALED_PATTERN = new RegExp(`^(?:[0-9a-f]{2}){0,${MAX_SEALED_HEX / 2}}$`)

function repositoryIn(json: JsonObject, what: string): string {
  return shape.matching(json['repository'], `${what}.repository`, REPOSITORY_PATTERN, 'a device id, a dot and a number')
}

/** The newer of two heads of one repository; a device that took it over overtakes the one before, whatever it counts. */
export function isNewer(head: Pick<BackupHead, 'epoch' | 'seq'>, than: Pick<BackupHead, 'epoch' | 'seq'>): boolean {
  return head.epoch > than.epoch || (head.epoch === than.epoch && head.seq > than.seq)
}

/** The newest of some by what they say of a repository, undefined when there are none. Pure. */
export function newestOf<T>(items: readonly T[], of: (item: T) => Pick<BackupHead, 'epoch' | 'seq'>): T | undefined {
  let newest: T | undefined
  for (const item of items) if (newest === undefined || isNewer(of(item), of(newest))) newest = item
  return newest
}

/** Whether a device that its owner trusts holds all of what a head tells of. Pure. */
export function isWholeCopy(
  head: Pick<BackupHead, 'epoch' | 'seq' | 'distrusted'>,
  device: string,
  { epoch, seq, percent }: Pick<ReplicaState, 'epoch' | 'seq' | 'percent'>,
): boolean {
  return percent === 100 && epoch === head.epoch && seq === head.seq && !head.distrusted.includes(device)
}

/**
 * The device that a repository belongs to by now, and since which epoch: who began it, or whom the newest signed claim names.
 * Pure.
 */
export function ownerOf(
  repository: string,
  { claims }: Pick<FleetPolicy, 'claims'>,
): { device: string; epoch: number } {
  const claim = claims.find((one) => one.repository === repository)
  if (claim !== undefined) return { device: claim.to, epoch: claim.epoch }
  return { device: parseRepositoryName(repository).device, epoch: 0 }
}

/**
 * The head in a record, when its device may speak for that repository. Pure.
 * @throws FlotillaError NOT_A_MEMBER when the repository is another's by now
 */
export function headIn(record: DeviceRecord, policy: Pick<FleetPolicy, 'claims'>): BackupHead | undefined {
  const head = record.backup
  if (head === undefined) return undefined
  const owner = ownerOf(head.repository, policy)
  if (owner.device !== record.device || owner.epoch !== head.epoch)
    throw new FlotillaError(
      'NOT_A_MEMBER',
      `backups of ${head.repository}: they are those of ${owner.device} since epoch ${owner.epoch}; ${record.device} speaks for epoch ${head.epoch}`,
    )
  return head
}

/** The same for who may come upon heads of others: of a device that was replaced, or that has not heard of its claim yet. Pure. */
export function headOrNone(record: DeviceRecord, policy: Pick<FleetPolicy, 'claims'>): BackupHead | undefined {
  try {
    return headIn(record, policy)
  } catch {
    return undefined
  }
}
