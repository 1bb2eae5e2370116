import { FlotillaError } from '../errors.ts'
import { type BackupHead, type HolderState, parseBackupHead, parseHolderState } from '../backup/backup-head.ts'
import { parseCertificate, type SignedCertificate } from '../membership/certificate.ts'
import { publicKeyOf } from '../network/identity.ts'
import { parseJson, shape } from '../shape.ts'
import { canonicalJson, sortedJson } from '../trust/canonical-json.ts'
import { verifyEd25519 } from '../trust/public-key.ts'

/** Where a device is on the way of a release. */
export const DEVICE_STATES = [
  'idle',
  'fetching',
  'written',
  'armed',
  'trial',
  'proven',
  'fell-back',
  'operator',
] as const
export type DeviceState = (typeof DEVICE_STATES)[number]

export type RunningRelease = {
  readonly id: string
  readonly version: string
  readonly era: number
  readonly seq: number
  /** Has run, proven, for as long as the release's plan asks for: counts as healthy for the next wave. */
  readonly soaked: boolean
}

/** What a device says about itself. Facts, not requests; believed only about itself. */
export type DeviceRecord = {
  readonly device: string
  readonly seq: number
  readonly name: string
  readonly board: string
  readonly channel: string
  readonly state: DeviceState
  readonly running: RunningRelease | undefined
  /** The release being got or tried, and how much of it is here, 0 … 100. */
  readonly next: { readonly id: string; readonly version: string; readonly percent: number } | undefined
  /** Releases held whole, own and carried, by id. */
  readonly holds: readonly string[]
  readonly failed:
    | { readonly id: string; readonly version: string; readonly reason: string; readonly log: string }
    | undefined
  /** The release this device would reboot for now, if its cell lets it. */
  readonly wishes: string | undefined
  /** The release that was halted here last, and by what. */
  readonly halted: { readonly id: string; readonly reason: string } | undefined
  readonly trust: { readonly root: number; readonly timestamp: number }
  readonly holdReason: string
  readonly labels: Readonly<Record<string, string>>
  /** All its links are radios. */
  readonly radio: boolean
  /** Its backup repository, when it has backups. */
  readonly backup: BackupHead | undefined
  /** What it does for the backups of others; undefined for who does nothing. */
  readonly holder: HolderState | undefined
}

/** A record as it travels: with the device's certificate, so that a third party can tell that a member speaks. */
export type SignedRecord = {
  readonly bytes: Uint8Array
  readonly record: DeviceRecord
  readonly certificate: SignedCertificate
}

/** Largest record, bytes. */
export const MAX_RECORD_BYTES = 8_192
const MAX_LOG = 1_000

/** Signs a record with the device's key. */
export function signRecord(
  record: DeviceRecord,
  certificate: Uint8Array,
  sign: (message: Uint8Array) => Uint8Array,
): Uint8Array {
  const signed = {
    ...record,
    failed: record.failed && {
      ...record.failed,
      reason: record.failed.reason.slice(0, 500),
      log: record.failed.log.slice(-MAX_LOG),
    },
  }
  const message = canonicalJson(signed)
  return sortedJson({
    signed,
    sig: Buffer.from(sign(message)).toString('hex'),
    certificate: Buffer.from(certificate).toString('base64'),
  })
}

/**
 * Parses a record and checks that the device itself signed it. Membership is judged by the caller.
 * @throws FlotillaError LENGTH, FORMAT, SIGNATURE
 */
export function parseRecord(bytes: Uint8Array): SignedRecord {
  const what = 'device record'
  const json = shape.object(parseJson(bytes, what, MAX_RECORD_BYTES), what)
  const signed = shape.object(json['signed'], `${what}: signed`)
  const device = shape.string(signed['device'], `${what}: device`, 128)
  const signature = Buffer.from(shape.string(json['sig'], `${what}: sig`, 128), 'hex')
  if (!verifyEd25519(publicKeyOf(device), canonicalJson(signed), signature)) {
    throw new FlotillaError('SIGNATURE', `${what} of ${device}: not signed by that device`)
  }
  const certificate = parseCertificate(
    Buffer.from(shape.string(json['certificate'], `${what}: certificate`, 2_048), 'base64'),
  )
  if (certificate.certificate.device !== device)
    throw new FlotillaError('FORMAT', `${what}: certificate of another device`)
  return { bytes, record: parseFields(signed, device, what), certificate }
}

function parseFields(signed: ReturnType<typeof shape.object>, device: string, what: string): DeviceRecord {
  const text = (value: unknown, key: string, max: number) => shape.string(value, `${what}: ${key}`, max)
  const optional = <T>(key: string, parse: (value: ReturnType<typeof shape.object>) => T): T | undefined =>
    signed[key] === undefined ? undefined : parse(shape.object(signed[key], `${what}: ${key}`))
  const trust = shape.object(signed['trust'], `${what}: trust`)
  const labels = Object.entries(shape.object(signed['labels'], `${what}: labels`))
  if (labels.length > 16) throw new FlotillaError('FORMAT', `${what}: more than 16 labels`)
  return {
    device,
    seq: shape.integer(signed['seq'], `${what}: seq`, 0),
    name: text(signed['name'], 'name', 64),
    board: text(signed['board'], 'board', 64),
    channel: text(signed['channel'], 'channel', 64),
    state: shape.oneOf(signed['state'], `${what}: state`, DEVICE_STATES),
    running: optional('running', (value) => ({
      id: shape.hex32(value['id'], `${what}: running.id`),
      version: text(value['version'], 'running.version', 64),
      era: shape.integer(value['era'], `${what}: running.era`, 0),
      seq: shape.integer(value['seq'], `${what}: running.seq`, 0),
      soaked: shape.boolean(value['soaked'], `${what}: running.soaked`),
    })),
    next: optional('next', (value) => ({
      id: shape.hex32(value['id'], `${what}: next.id`),
      version: text(value['version'], 'next.version', 64),
      percent: shape.integer(value['percent'], `${what}: next.percent`, 0, 100),
    })),
    holds: shape.array(signed['holds'], `${what}: holds`, 32).map((id) => shape.hex32(id, `${what}: holds[]`)),
    failed: optional('failed', (value) => ({
      id: shape.hex32(value['id'], `${what}: failed.id`),
      version: text(value['version'], 'failed.version', 64),
      reason: text(value['reason'], 'failed.reason', 500),
      log: text(value['log'], 'failed.log', MAX_LOG),
    })),
    wishes: signed['wishes'] === undefined ? undefined : shape.hex32(signed['wishes'], `${what}: wishes`),
    halted: optional('halted', (value) => ({
      id: shape.hex32(value['id'], `${what}: halted.id`),
      reason: text(value['reason'], 'halted.reason', 200),
    })),
    trust: {
      root: shape.integer(trust['root'], `${what}: trust.root`, 0),
      timestamp: shape.integer(trust['timestamp'], `${what}: trust.timestamp`, 0),
    },
    holdReason: text(signed['holdReason'], 'holdReason', 200),
    labels: Object.fromEntries(labels.map(([key, value]) => [text(key, 'labels', 64), text(value, 'labels', 64)])),
    radio: shape.boolean(signed['radio'] ?? false, `${what}: radio`),
    backup: optional('backup', (value) => parseBackupHead(value, `${what}: backup`)),
    holder: optional('holder', (value) => parseHolderState(value, `${what}: holder`)),
  }
}
