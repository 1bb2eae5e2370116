import { type BackupSpec, toBackup } from './backup-spec.ts'
import type { YamlReader, YamlValue } from './yaml-reader.ts'

/** One container as `skiff-core.yaml` wants it. Sizes in bytes; lists as Docker takes them. */
export type ContainerSpec = {
  readonly image: string
  readonly tty: boolean
  readonly workingDirectory: string | undefined
  /** `source:target[:options]`; a source without a `/` is a volume. */
  readonly mounts: readonly string[]
  readonly disableInit: boolean
  readonly privileged: boolean
  readonly capAdd: readonly string[]
  readonly capDrop: readonly string[]
  readonly hostIPC: boolean
  readonly hostPID: boolean
  readonly hostUTS: boolean
  readonly hostNetwork: boolean
  readonly securityOpt: readonly string[]
  readonly tmpFs: Readonly<Record<string, string>>
  readonly entrypoint: readonly string[] | undefined
  readonly cmd: readonly string[] | undefined
  /** `NAME=value`. */
  readonly env: readonly string[]
  readonly ports: readonly PortSpec[]
  readonly dns: readonly string[]
  readonly dnsSearch: readonly string[]
  /** `name:address`. */
  readonly hosts: readonly string[]
  readonly restartPolicy: 'no' | 'always' | 'unless-stopped' | 'on-failure'
  readonly startAfterCreate: boolean
  readonly stopSignal: string | undefined
  readonly stopTimeoutSeconds: number | undefined
  /** `source[:target[:permissions]]`. */
  readonly devices: readonly string[]
  readonly networks: readonly string[]
  readonly labels: Readonly<Record<string, string>>
  readonly user: string | undefined
  readonly hostname: string | undefined
  readonly ulimits: readonly { readonly name: string; readonly soft: number; readonly hard: number }[]
  readonly memoryBytes: number | undefined
  readonly cpus: number | undefined
  readonly shmBytes: number | undefined
  readonly readOnly: boolean
  readonly runtime: string | undefined
  /** `all`, or how many. */
  readonly gpus: 'all' | number | undefined
  readonly healthCheck: HealthCheckSpec | undefined
  readonly dependsOn: readonly string[]
  /** Directory in the container where it may hold its update off, with a file `hold`. */
  readonly updateLock: string | undefined
  /** Undefined makes no backups. */
  readonly backup: BackupSpec | undefined
}

export type PortSpec = {
  readonly hostPort: number
  readonly containerPort: number
  readonly protocol: 'tcp' | 'udp'
  readonly hostAddress: string | undefined
}

export type HealthCheckSpec = {
  readonly test: readonly string[]
  readonly intervalSeconds: number
  readonly timeoutSeconds: number
  readonly retries: number
  readonly startSeconds: number
}

/** SkiffOS's keys, then what its users miss. */
const KEYS = [
  'image',
  'tty',
  'workingDirectory',
  'mounts',
  'disableInit',
  'privileged',
  'capAdd',
  'hostIPC',
  'hostPID',
  'hostUTS',
  'hostNetwork',
  'securityOpt',
  'tmpFs',
  'entrypoint',
  'cmd',
  'env',
  'ports',
  'dns',
  'dnsSearch',
  'hosts',
  'restartPolicy',
  'startAfterCreate',
  'stopSignal',
  'stopTimeoutSeconds',
  'capDrop',
  'devices',
  'networks',
  'volumes',
  'labels',
  'user',
  'hostname',
  'ulimits',
  'memory',
  'cpus',
  'shmSize',
  'readOnly',
  'runtime',
  'gpus',
  'healthCheck',
  'dependsOn',
  'updateLock',
  'backup',
] as const
const MAX_PORT = 65_535
const UNITS = { b: 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 } as const
/** The documentation of SkiffOS says `never`, which Docker does not know; an empty word is Docker's default. */
const RESTART = { never: 'no', '': 'no' } as const

/** @throws FlotillaError BAD_CONFIG with the place of what is wrong */
export function toContainer(reader: YamlReader, value: YamlValue): ContainerSpec {
  const key = reader.keys(value, KEYS)
  const image = key('image')
  if (image === undefined) reader.fail(value, `${value?.path}: image is missing`)
  const restart = key('restartPolicy')
  const words = ['no', 'always', 'unless-stopped', 'on-failure', 'never', ''] as const
  const policy = restart === undefined ? 'no' : reader.oneOf(restart, words)
  return {
    image: reader.text(image),
    tty: reader.flag(key('tty')),
    workingDirectory: reader.optionalText(key('workingDirectory')),
    mounts: [...reader.list(key('mounts')), ...reader.list(key('volumes'))].map((item) => mountOf(reader, item)),
    disableInit: reader.flag(key('disableInit')),
    privileged: reader.flag(key('privileged')),
    capAdd: reader.texts(key('capAdd')),
    capDrop: reader.texts(key('capDrop')),
    hostIPC: reader.flag(key('hostIPC')),
    hostPID: reader.flag(key('hostPID')),
    hostUTS: reader.flag(key('hostUTS')),
    hostNetwork: reader.flag(key('hostNetwork')),
    securityOpt: reader.texts(key('securityOpt')),
    tmpFs: reader.filledPairs(key('tmpFs')),
    entrypoint: key('entrypoint') === undefined ? undefined : reader.textOrTexts(key('entrypoint')),
    cmd: key('cmd') === undefined ? undefined : reader.textOrTexts(key('cmd')),
    env: reader.list(key('env')).map((item) => variableOf(reader, item)),
    ports: reader.list(key('ports')).map((item) => toPort(reader, item)),
    dns: reader.texts(key('dns')),
    dnsSearch: reader.texts(key('dnsSearch')),
    hosts: reader.texts(key('hosts')),
    restartPolicy: policy === 'never' || policy === '' ? RESTART[policy] : policy,
    startAfterCreate: reader.flag(key('startAfterCreate')),
    stopSignal: reader.optionalText(key('stopSignal')),
    stopTimeoutSeconds: reader.optionalInteger(key('stopTimeoutSeconds'), 0, 86_400),
    devices: reader.texts(key('devices')),
    networks: reader.texts(key('networks')),
    labels: reader.filledPairs(key('labels')),
    user: reader.optionalText(key('user')),
    hostname: reader.optionalText(key('hostname')),
    ulimits: [...reader.entries(key('ulimits'))].map(([name, entry]) => toUlimit(reader, name, entry.value)),
    memoryBytes: sizeOf(reader, key('memory')),
    cpus: cpusOf(reader, key('cpus')),
    shmBytes: sizeOf(reader, key('shmSize')),
    readOnly: reader.flag(key('readOnly')),
    runtime: reader.optionalText(key('runtime')),
    gpus: gpusOf(reader, key('gpus')),
    healthCheck: key('healthCheck') === undefined ? undefined : toHealthCheck(reader, key('healthCheck')),
    dependsOn: reader.texts(key('dependsOn')),
    updateLock: key('updateLock') === undefined ? undefined : directoryOf(reader, key('updateLock')),
    backup: toOptionalBackup(reader, key('backup')),
  }
}

function toOptionalBackup(reader: YamlReader, value: YamlValue): BackupSpec | undefined {
  return value === undefined ? undefined : toBackup(reader, value)
}

function directoryOf(reader: YamlReader, value: YamlValue): string {
  const path = reader.optionalText(value) ?? ''
  return /^(\/[^/:]+)+$/.test(path)
    ? path
    : reader.fail(value, `${value?.path}: wanted a directory such as /run/flotilla`)
}

function mountOf(reader: YamlReader, value: NonNullable<YamlValue>): string {
  const text = reader.text(value)
  if (!/^[^:]+:\/[^:]*(:[\w,]+)?$/.test(text))
    reader.fail(value, `${value.path}: wanted source:/target or source:/target:ro`)
  return text
}

function variableOf(reader: YamlReader, value: NonNullable<YamlValue>): string {
  const text = reader.text(value)
  if (!/^[^=\s]+=/.test(text)) reader.fail(value, `${value.path}: wanted NAME=value`)
  return text
}

function toPort(reader: YamlReader, value: YamlValue): PortSpec {
  const key = reader.keys(value, ['hostPort', 'containerPort', 'protocol', 'hostAddress'])
  const port = (name: 'hostPort' | 'containerPort') => {
    const found = key(name)
    return found === undefined
      ? reader.fail(value, `${value?.path}: ${name} is missing`)
      : reader.integer(found, 1, MAX_PORT)
  }
  const protocol = key('protocol')
  return {
    hostPort: port('hostPort'),
    containerPort: port('containerPort'),
    protocol: protocol === undefined ? 'tcp' : reader.oneOf(protocol, ['tcp', 'udp']),
    hostAddress: reader.optionalText(key('hostAddress')),
  }
}

function toUlimit(reader: YamlReader, name: string, value: YamlValue) {
  if (value === undefined) reader.fail(value, `ulimits.${name}: wanted a number`)
  const most = Number.MAX_SAFE_INTEGER
  if (!reader.isMap(value)) {
    const both = reader.integer(value, -1, most)
    return { name, soft: both, hard: both }
  }
  const key = reader.keys(value, ['soft', 'hard'])
  const [soft, hard] = [key('soft'), key('hard')]
  if (soft === undefined || hard === undefined) reader.fail(value, `${value.path}: wanted soft and hard`)
  return { name, soft: reader.integer(soft, -1, most), hard: reader.integer(hard, -1, most) }
}

/** `512m`, `1.5g`, or bytes. */
function sizeOf(reader: YamlReader, value: YamlValue): number | undefined {
  if (value === undefined) return undefined
  const [, number = '', unit = 'b'] = /^(\d+(?:\.\d+)?)([bkmgt])?b?$/i.exec(reader.text(value)) ?? []
  if (number === '') reader.fail(value, `${value.path}: wanted a size such as 512m`)
  return Math.round(Number(number) * UNITS[unit.toLowerCase() as keyof typeof UNITS])
}

function cpusOf(reader: YamlReader, value: YamlValue): number | undefined {
  if (value === undefined) return undefined
  const number = Number(reader.text(value))
  if (!(number > 0 && number <= 1_024)) reader.fail(value, `${value.path}: wanted a number of processors such as 1.5`)
  return number
}

function gpusOf(reader: YamlReader, value: YamlValue): 'all' | number | undefined {
  if (value === undefined) return undefined
  return reader.text(value) === 'all' ? 'all' : reader.integer(value, 1, 64)
}

function toHealthCheck(reader: YamlReader, value: YamlValue): HealthCheckSpec {
  const known = ['test', 'intervalSeconds', 'timeoutSeconds', 'retries', 'startSeconds'] as const
  const key = reader.keys(value, known)
  const test = key('test')
  if (test === undefined) reader.fail(value, `${value?.path}: test is missing`)
  const atLeastOne = (name: (typeof known)[number], missing: number) =>
    reader.optionalInteger(key(name), 1, 86_400) ?? missing
  return {
    test: healthTest(reader, test),
    intervalSeconds: atLeastOne('intervalSeconds', 30),
    timeoutSeconds: atLeastOne('timeoutSeconds', 30),
    retries: atLeastOne('retries', 3),
    startSeconds: reader.optionalInteger(key('startSeconds'), 0, 86_400) ?? 0,
  }
}

/** One text is for a shell, a list is a command, with or without the word that Docker puts before it. */
function healthTest(reader: YamlReader, value: NonNullable<YamlValue>): readonly string[] {
  if (!reader.isList(value)) return ['CMD-SHELL', reader.text(value)]
  const words = reader.texts(value)
  return ['CMD', 'CMD-SHELL', 'NONE'].includes(words[0] ?? '') ? words : ['CMD', ...words]
}
