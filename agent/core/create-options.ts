import { createHash } from 'node:crypto'
import type { ContainerCreateOptions, EndpointsConfig } from 'dockerode'
import type { ContainerSpec } from '../../protocol/core/container-spec.ts'
import { sortedJson } from '../../protocol/trust/canonical-json.ts'

/** Labels by which Flotilla knows what it made. Nothing without them is ever touched. */
export const CONTAINER_LABEL = 'io.flotilla.container'
export const DEFINITION_LABEL = 'io.flotilla.definition'

/** A volume that goes over from the container before: made by its image, without a name in the file. */
export type CarriedVolume = { readonly volume: string; readonly target: string }

export type CreateFacts = {
  readonly carried: readonly CarriedVolume[]
  /** Directory on the host that becomes the container's `updateLock`. */
  readonly lockDirectory: string
  /** Whether the host has `/usr/bin/tini`, which SkiffOS shows to containers as `/dev/init`. */
  readonly hasTini: boolean
}

const NANOSECONDS = 1_000_000_000
const TINI = '/usr/bin/tini:/dev/init'

/**
 * What Docker is told to create. Pure.
 * @see Docker Engine API 1.41, "Create a container"; facts/skiffos.md 5.2 for the keys
 */
export function createOptions(name: string, spec: ContainerSpec, facts: CreateFacts): ContainerCreateOptions {
  const given = {
    WorkingDir: spec.workingDirectory,
    Entrypoint: spec.entrypoint && [...spec.entrypoint],
    Cmd: spec.cmd && [...spec.cmd],
    StopSignal: spec.stopSignal,
    StopTimeout: spec.stopTimeoutSeconds,
    User: spec.user,
    Hostname: spec.hostname,
    Healthcheck: spec.healthCheck && {
      Test: [...spec.healthCheck.test],
      Interval: spec.healthCheck.intervalSeconds * NANOSECONDS,
      Timeout: spec.healthCheck.timeoutSeconds * NANOSECONDS,
      Retries: spec.healthCheck.retries,
      StartPeriod: spec.healthCheck.startSeconds * NANOSECONDS,
    },
  }
  return {
    Image: spec.image,
    Tty: spec.tty,
    OpenStdin: spec.tty,
    Env: [...spec.env],
    Labels: { ...spec.labels, [CONTAINER_LABEL]: name, [DEFINITION_LABEL]: definitionOf(spec) },
    ExposedPorts: Object.fromEntries(spec.ports.map((port) => [`${port.containerPort}/${port.protocol}`, {}])),
    HostConfig: hostConfig(name, spec, facts),
    NetworkingConfig: { EndpointsConfig: firstNetwork(spec) },
    ...withoutUndefined(given),
  }
}

function hostConfig(
  name: string,
  spec: ContainerSpec,
  { carried, lockDirectory, hasTini }: CreateFacts,
): NonNullable<ContainerCreateOptions['HostConfig']> {
  const targets = [
    ...spec.mounts.map((mount) => mount.split(':')[1] ?? ''),
    ...Object.keys(spec.tmpFs),
    spec.updateLock ?? '',
  ]
  const named = new Set(targets.map(plainPath))
  const showsTini = !spec.disableInit && hasTini && !named.has('/dev')
  const given = {
    Memory: spec.memoryBytes,
    NanoCpus: spec.cpus && Math.round(spec.cpus * NANOSECONDS),
    ShmSize: spec.shmBytes,
    Runtime: spec.runtime,
    IpcMode: spec.hostIPC ? 'host' : undefined,
    PidMode: spec.hostPID ? 'host' : undefined,
    UTSMode: spec.hostUTS ? 'host' : undefined,
    NetworkMode: spec.hostNetwork ? 'host' : spec.networks[0],
    DeviceRequests:
      spec.gpus === undefined ? undefined : [{ Count: spec.gpus === 'all' ? -1 : spec.gpus, Capabilities: [['gpu']] }],
  }
  return {
    Binds: [
      ...spec.mounts,
      ...carried
        .filter(({ target }) => !named.has(plainPath(target)))
        .map(({ volume, target }) => `${volume}:${target}`),
      ...(spec.updateLock === undefined ? [] : [`${lockDirectory}/${name}:${spec.updateLock}`]),
      ...(showsTini ? [TINI] : []),
    ],
    Init: !spec.disableInit,
    Privileged: spec.privileged,
    CapAdd: [...spec.capAdd],
    CapDrop: [...spec.capDrop],
    SecurityOpt: [...spec.securityOpt],
    Tmpfs: { ...spec.tmpFs },
    PortBindings: portBindings(spec),
    Dns: [...spec.dns],
    DnsSearch: [...spec.dnsSearch],
    ExtraHosts: [...spec.hosts],
    RestartPolicy: { Name: spec.restartPolicy },
    Devices: spec.devices.map(deviceOf),
    ReadonlyRootfs: spec.readOnly,
    Ulimits: spec.ulimits.map(({ name: limit, soft, hard }) => ({ Name: limit, Soft: soft, Hard: hard })),
    ...withoutUndefined(given),
  }
}

/** Docker takes `/data/` for `/data`. */
function plainPath(path: string): string {
  return path.replace(/\/+$/, '')
}

/** One port of the container may be reached at several of the host. */
function portBindings({ ports }: ContainerSpec): Record<string, { HostIp: string; HostPort: string }[]> {
  const bindings: Record<string, { HostIp: string; HostPort: string }[]> = {}
  for (const { containerPort, protocol, hostPort, hostAddress } of ports)
    (bindings[`${containerPort}/${protocol}`] ??= []).push({ HostIp: hostAddress ?? '', HostPort: String(hostPort) })
  return bindings
}

function deviceOf(device: string) {
  const [source = '', target = source, permissions = 'rwm'] = device.split(':')
  return { PathOnHost: source, PathInContainer: target, CgroupPermissions: permissions }
}

/** Engines before 25 connect a container to one network when it is created; the others follow. */
function firstNetwork({ networks, hostNetwork }: ContainerSpec): EndpointsConfig {
  const [first] = networks
  return first === undefined || hostNetwork ? {} : { [first]: {} }
}

/**
 * Names what a container is made from: two specs of one definition make equal containers. What is empty does not count, so that
 * a key that comes with a later version of Flotilla does not have every container of every fleet made anew; nor does what needs
 * no new container: its image's name (images are compared by id), whether, when and how often it is started, its backups. Pure.
 */
export function definitionOf(spec: ContainerSpec): string {
  const {
    image: _image,
    startAfterCreate: _start,
    dependsOn: _depends,
    restartPolicy: _restart,
    backup: _backup,
    ...made
  } = spec
  return createHash('sha256')
    .update(sortedJson(withoutEmpty(made)))
    .digest('hex')
    .slice(0, 32)
}

/** Keys of the container only: an empty label or tmpfs option inside one means something. */
function withoutEmpty(made: object): unknown {
  return writable(Object.fromEntries(Object.entries(made).filter(([, member]) => !isEmpty(member))))
}

/** Canonical JSON has whole numbers only, and a file may say 1.5 processors. */
function writable(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(writable)
  if (typeof value === 'number') return String(value)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, writable(member)]))
}

function isEmpty(value: unknown): boolean {
  if (value === undefined || value === null || value === false || value === '') return true
  return typeof value === 'object' && Object.keys(value).length === 0
}

function withoutUndefined<T extends object>(value: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const entries = Object.entries(value).filter(([, member]) => member !== undefined)
  return Object.fromEntries(entries) as { [K in keyof T]?: Exclude<T[K], undefined> }
}
