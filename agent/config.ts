import { isMap, isPair, isScalar, LineCounter, parseDocument } from 'yaml'
import {
  BOOT_FAMILIES,
  type BootFamily,
  DEFAULT_TRIAL_BOOT_SECONDS,
  parseTrialBootSeconds,
} from '../protocol/boot/slot-files.ts'
import { FlotillaError } from '../protocol/errors.ts'
import { NAME_PATTERN, shape } from '../protocol/shape.ts'
import { type MaintenanceWindow, parseWindow } from './control/reboot-gate.ts'
import { type BackupConfig, toBackupConfig } from './backup/backup-config.ts'
import type { TrafficRules } from './control/traffic-policy.ts'
import type { BuiltInRules } from './health/judge-health.ts'

/** Settings of one device, from `agent.yaml`. Who it is (name, fleet, board) stands in its certificate instead. */
export type AgentConfig = {
  readonly channel: string
  readonly hardware: string
  /** The boot area: slots and boot records. */
  readonly boot: string
  /** The directory on the persist partition. */
  readonly persist: string
  /** How this device boots. */
  readonly family: BootFamily
  /** From the start of a trial's kernel until its agent has to be up, seconds; then the device falls back. */
  readonly trialBootSeconds: number
  /** Whether a trial is started by `kexec`, past firmware and loader, where the family can. */
  readonly kexec: boolean
  readonly port: number
  /** Where peers fetch chunks; where it is taken, the system chooses another. */
  readonly bulkPort: number
  readonly listen: readonly string[]
  readonly interfaces: readonly string[]
  /** Interfaces that are radios though Linux does not call them so. */
  readonly radios: readonly string[]
  readonly discovery: boolean
  /** Multiaddrs of peers that are tried always. */
  readonly peers: readonly string[]
  /** Proven releases kept besides the running one. */
  readonly keepReleases: number
  /** Room for releases of other boards, bytes; 0 carries none. */
  readonly carryBytes: number
  readonly socket: string
  readonly holdFile: string
  readonly maintenance: readonly MaintenanceWindow[]
  readonly healthDirectory: string
  readonly checkTimeoutMs: number
  readonly builtIn: BuiltInRules
  readonly engineSocket: string
  /** SkiffOS's tree on persist: containers' data, and in `core/` the device's own `skiff-core.yaml`. */
  readonly skiff: string
  /** Whether `users:` of `skiff-core.yaml` become accounts of this host. */
  readonly accounts: boolean
  readonly loginShell: string
  readonly labels: Readonly<Record<string, string>>
  readonly traffic: TrafficRules
  readonly trafficFile: string
  /** Scheduling class of the agent: 0 … 19, higher yields more. */
  readonly nice: number
  readonly backups: BackupConfig
}

/** A configuration is a page, not a book: parsing megabytes of YAML takes seconds. */
const MAX_CONFIG_LENGTH = 65_536
const RULE = ['must', 'should', 'off'] as const
const DEFAULTS = {
  channel: 'stable',
  boot: '/boot',
  persist: '/mnt/persist/flotilla',
  family: 'directory',
  trialBootSeconds: DEFAULT_TRIAL_BOOT_SECONDS,
  kexec: false,
  port: 4848,
  bulkPort: 4849,
  listen: [],
  interfaces: [],
  radios: [],
  discovery: true,
  peers: [],
  keepReleases: 1,
  carryMiB: 1024,
  socket: '/run/flotilla/agent.sock',
  holdFile: '/run/flotilla/hold',
  maintenance: [],
  healthDirectory: '/etc/flotilla/health',
  checkTimeoutSeconds: 30,
  health: {},
  engineSocket: '/var/run/docker.sock',
  skiff: '/mnt/persist/skiff',
  loginShell: '/usr/bin/flotilla-shell',
  labels: {},
  traffic: {},
  trafficFile: '/run/flotilla/traffic',
  nice: 10,
  backups: {},
}

/**
 * Parses `agent.yaml`. Unknown keys are errors with their line, so that a slip of the pen is not a silent default.
 * @throws FlotillaError BAD_CONFIG
 */
export function parseAgentConfig(text: string, file: string): AgentConfig {
  if (text.length > MAX_CONFIG_LENGTH)
    throw new FlotillaError('BAD_CONFIG', `${file}: ${text.length} characters, at most ${MAX_CONFIG_LENGTH} are read`)
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, uniqueKeys: true, logLevel: 'error' })
  const problem = document.errors[0]
  if (problem !== undefined) throw new FlotillaError('BAD_CONFIG', `${file}: ${problem.message}`)
  requireKnownKeys(document.contents, file, lines)
  try {
    // An alias to nothing, or to itself many times over, is found only here.
    return toConfig({ ...DEFAULTS, ...shape.object(document.toJS({ maxAliasCount: 20 }) ?? {}, file) })
  } catch (cause) {
    if (!(cause instanceof Error)) throw cause
    throw new FlotillaError('BAD_CONFIG', `${file}: ${cause.message}`, { cause })
  }
}

function requireKnownKeys(contents: unknown, file: string, lines: LineCounter): void {
  if (contents === null) return
  if (!isMap(contents)) throw new FlotillaError('BAD_CONFIG', `${file}: wanted keys and values`)
  const known = [...Object.keys(DEFAULTS), 'hardware', 'accounts']
  for (const pair of contents.items) {
    const key = isPair(pair) && isScalar(pair.key) ? pair.key : undefined
    if (key === undefined || known.includes(String(key.value))) continue
    const { line, col } = lines.linePos(key.range?.[0] ?? 0)
    throw new FlotillaError(
      'BAD_CONFIG',
      `${file}:${line}:${col}: no such key: ${String(key.value)} (known: ${known.join(', ')})`,
    )
  }
}

function toConfig(json: Readonly<Record<string, unknown>>): AgentConfig {
  const path = (key: string) => shape.string(json[key], key, 4_096)
  const strings = (key: string) => shape.array(json[key], key, 64).map((item) => shape.string(item, `${key}[]`, 256))
  const health = shape.object(json['health'], 'health')
  shape.onlyKeys(health, 'health', ['peers', 'engine', 'containers'])
  const rule = (key: keyof BuiltInRules) =>
    health[key] === undefined ? 'must' : shape.oneOf(health[key], `health.${key}`, RULE)
  return {
    channel: shape.matching(json['channel'], 'channel', NAME_PATTERN, 'a plain lower-case name'),
    hardware: shape.string(json['hardware'], 'hardware', 128),
    boot: path('boot'),
    persist: path('persist'),
    family: shape.oneOf(json['family'], 'family', BOOT_FAMILIES),
    trialBootSeconds: parseTrialBootSeconds(json['trialBootSeconds'], 'trialBootSeconds'),
    kexec: shape.boolean(json['kexec'], 'kexec'),
    port: shape.integer(json['port'], 'port', 0, 65_535),
    bulkPort: shape.integer(json['bulkPort'], 'bulkPort', 0, 65_535),
    listen: strings('listen'),
    interfaces: strings('interfaces'),
    radios: strings('radios'),
    discovery: shape.boolean(json['discovery'], 'discovery'),
    peers: strings('peers'),
    keepReleases: shape.integer(json['keepReleases'], 'keepReleases', 1, 16),
    carryBytes: shape.integer(json['carryMiB'], 'carryMiB', 0, 1_048_576) * 1_048_576,
    socket: path('socket'),
    holdFile: path('holdFile'),
    maintenance: strings('maintenance').map((text) => window(text, 'maintenance')),
    traffic: toTraffic(shape.object(json['traffic'], 'traffic')),
    trafficFile: path('trafficFile'),
    nice: shape.integer(json['nice'], 'nice', 0, 19),
    backups: toBackupConfig(shape.object(json['backups'], 'backups')),
    healthDirectory: path('healthDirectory'),
    checkTimeoutMs: shape.integer(json['checkTimeoutSeconds'], 'checkTimeoutSeconds', 1, 3_600) * 1_000,
    builtIn: { peers: rule('peers'), engine: rule('engine'), containers: rule('containers') },
    engineSocket: path('engineSocket'),
    skiff: path('skiff'),
    // Simulated devices share the host's accounts.
    accounts: shape.boolean(json['accounts'] ?? json['family'] !== 'directory', 'accounts'),
    loginShell: path('loginShell'),
    labels: Object.fromEntries(
      Object.entries(shape.object(json['labels'], 'labels')).map(([key, value]) => [
        key,
        shape.string(value, `labels.${key}`, 64),
      ]),
    ),
  }
}

function window(text: string, key: string): MaintenanceWindow {
  const parsed = parseWindow(text)
  if (parsed === undefined) throw new FlotillaError('BAD_CONFIG', `${key}: ${text} is not like 22:00-06:00`)
  return parsed
}

function toTraffic(json: Readonly<Record<string, unknown>>): TrafficRules {
  const keys = ['sendKiB', 'receiveKiB', 'perPeerKiB', 'quietHours', 'quietKiB', 'dailyMiB', 'meteredKiB', 'maxDelayMs']
  shape.onlyKeys(json, 'traffic', keys)
  const rate = (key: string, missing: number) =>
    json[key] === undefined ? missing : shape.integer(json[key], `traffic.${key}`, 0, 100_000_000) * 1_024
  return {
    sendRate: rate('sendKiB', Infinity),
    receiveRate: rate('receiveKiB', Infinity),
    perPeerRate: rate('perPeerKiB', Infinity),
    quietHours: shape
      .array(json['quietHours'] ?? [], 'traffic.quietHours', 16)
      .map((item) => window(shape.string(item, 'traffic.quietHours[]', 16), 'traffic.quietHours')),
    quietRate: rate('quietKiB', 0),
    ...toDailyBudget(json['dailyMiB']),
    meteredRate: rate('meteredKiB', 0),
    maxDelayMs: shape.integer(json['maxDelayMs'] ?? 100, 'traffic.maxDelayMs', 0, 10_000),
  }
}

/** A number for all interfaces together, or one for each that is named. */
function toDailyBudget(value: unknown): Pick<TrafficRules, 'dailyBytes' | 'dailyBytesOf'> {
  const bytes = (mib: unknown, key: string) => shape.integer(mib, key, 0, 100_000_000) * 2 ** 20
  if (value === undefined) return { dailyBytes: Infinity, dailyBytesOf: new Map() }
  if (typeof value !== 'object') return { dailyBytes: bytes(value, 'traffic.dailyMiB'), dailyBytesOf: new Map() }
  const named = Object.entries(shape.object(value, 'traffic.dailyMiB'))
  return {
    dailyBytes: Infinity,
    dailyBytesOf: new Map(named.map(([name, mib]) => [name, bytes(mib, `traffic.dailyMiB.${name}`)])),
  }
}
