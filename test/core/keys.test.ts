import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { stringify } from 'yaml'
import type { ContainerInspectInfo } from 'dockerode'
import { createOptions, definitionOf } from '../../agent/core/create-options.ts'
import { Engine } from '../../agent/core/engine.ts'
import { parseSkiffCore } from '../../protocol/core/skiff-core.ts'
import { EngineRig } from './engine-rig.ts'

type Found = ContainerInspectInfo
const NS = 1_000_000_000

/** Each key of a container, set alone, and what `docker inspect` shows then. */
const KEYS: readonly (readonly [key: string, value: unknown, read: (found: Found) => unknown, wanted: unknown])[] = [
  ['tty', true, ({ Config }) => Config.Tty, true],
  ['workingDirectory', '/tmp', ({ Config }) => Config.WorkingDir, '/tmp'],
  ['mounts', ['/tmp:/mnt:ro', 'data:/data'], ({ HostConfig }) => HostConfig.Binds, ['/tmp:/mnt:ro', 'data:/data']],
  [
    'volumes',
    ['more:/more'],
    ({ Mounts }) => Mounts.map(({ Type, Name, Destination }) => [Type, Name, Destination]),
    [['volume', 'more', '/more']],
  ],
  ['disableInit', true, ({ HostConfig }) => HostConfig.Init, false],
  ['privileged', true, ({ HostConfig }) => HostConfig.Privileged, true],
  ['capAdd', ['NET_ADMIN'], ({ HostConfig }) => HostConfig.CapAdd, [expect.stringMatching(/^(CAP_)?NET_ADMIN$/)]],
  ['capDrop', ['NET_RAW'], ({ HostConfig }) => HostConfig.CapDrop, [expect.stringMatching(/^(CAP_)?NET_RAW$/)]],
  ['hostIPC', true, ({ HostConfig }) => HostConfig.IpcMode, 'host'],
  ['hostPID', true, ({ HostConfig }) => HostConfig.PidMode, 'host'],
  ['hostUTS', true, ({ HostConfig }) => HostConfig.UTSMode, 'host'],
  ['hostNetwork', true, ({ HostConfig }) => HostConfig.NetworkMode, 'host'],
  ['securityOpt', ['seccomp=unconfined'], ({ HostConfig }) => HostConfig.SecurityOpt, ['seccomp=unconfined']],
  ['tmpFs', { '/run': 'rw,size=1m' }, ({ HostConfig }) => HostConfig.Tmpfs, { '/run': 'rw,size=1m' }],
  ['entrypoint', ['/bin/sleep', '9'], ({ Config }) => Config.Entrypoint, ['/bin/sleep', '9']],
  ['cmd', ['one', 'two'], ({ Config }) => Config.Cmd, ['one', 'two']],
  ['env', ['A=1', 'B='], ({ Config }) => Config.Env.filter((item) => !item.startsWith('PATH=')), ['A=1', 'B=']],
  [
    'ports',
    [
      { hostPort: 8081, containerPort: 80 },
      { hostPort: 5353, containerPort: 53, protocol: 'udp', hostAddress: '127.0.0.1' },
    ],
    ({ HostConfig }) => HostConfig.PortBindings,
    { '80/tcp': [{ HostIp: '', HostPort: '8081' }], '53/udp': [{ HostIp: '127.0.0.1', HostPort: '5353' }] },
  ],
  ['dns', ['10.0.0.1'], ({ HostConfig }) => HostConfig.Dns, ['10.0.0.1']],
  ['dnsSearch', ['robots.local'], ({ HostConfig }) => HostConfig.DnsSearch, ['robots.local']],
  ['hosts', ['arm:10.0.0.9'], ({ HostConfig }) => HostConfig.ExtraHosts, ['arm:10.0.0.9']],
  ['restartPolicy', 'unless-stopped', ({ HostConfig }) => HostConfig.RestartPolicy?.Name, 'unless-stopped'],
  ['stopSignal', 'RTMIN+3', ({ Config }) => (Config as { StopSignal?: string }).StopSignal, 'RTMIN+3'],
  ['stopTimeoutSeconds', 7, ({ Config }) => (Config as { StopTimeout?: number }).StopTimeout, 7],
  [
    'devices',
    ['/dev/null:/dev/arm:rw'],
    ({ HostConfig }) => HostConfig.Devices as unknown,
    [{ PathOnHost: '/dev/null', PathInContainer: '/dev/arm', CgroupPermissions: 'rw' }],
  ],
  ['networks', ['bridge'], ({ HostConfig }) => HostConfig.NetworkMode, 'bridge'],
  ['labels', { 'robot.part': 'arm' }, ({ Config }) => Config.Labels['robot.part'], 'arm'],
  ['user', '1000:1000', ({ Config }) => Config.User, '1000:1000'],
  ['hostname', 'arm', ({ Config }) => Config.Hostname, 'arm'],
  [
    'ulimits',
    { nofile: { soft: 64, hard: 128 } },
    ({ HostConfig }) => HostConfig.Ulimits,
    [{ Name: 'nofile', Soft: 64, Hard: 128 }],
  ],
  ['memory', '64m', ({ HostConfig }) => HostConfig.Memory, 64 * 2 ** 20],
  ['cpus', 1.5, ({ HostConfig }) => HostConfig.NanoCpus, 1.5 * NS],
  ['shmSize', '16m', ({ HostConfig }) => HostConfig.ShmSize, 16 * 2 ** 20],
  ['readOnly', true, ({ HostConfig }) => HostConfig.ReadonlyRootfs, true],
  ['runtime', 'io.containerd.runc.v2', ({ HostConfig }) => HostConfig.Runtime, 'io.containerd.runc.v2'],
  [
    'gpus',
    2,
    ({ HostConfig }) => HostConfig.DeviceRequests?.map(({ Count, Capabilities }) => ({ Count, Capabilities })),
    [{ Count: 2, Capabilities: [['gpu']] }],
  ],
  [
    'healthCheck',
    { test: ['pgrep', 'arm'], intervalSeconds: 5, timeoutSeconds: 2, retries: 4, startSeconds: 9 },
    ({ Config }) => Config.Healthcheck,
    { Test: ['CMD', 'pgrep', 'arm'], Interval: 5 * NS, Timeout: 2 * NS, Retries: 4, StartPeriod: 9 * NS },
  ],
  ['updateLock', '/run/hold', ({ HostConfig }) => HostConfig.Binds, ['/tmp/locks/probe:/run/hold']],
]
/** Seen in what is started and when: reconcile.test.ts. */
const ELSEWHERE = ['image', 'startAfterCreate', 'dependsOn', 'backup']

describe('the keys of a container', () => {
  const rig = new EngineRig()
  let engine: Engine

  beforeAll(async () => {
    await rig.start()
    await rig.busybox('bb:1')
    engine = await Engine.open(rig.socket)
  })
  afterAll(() => rig.close())

  it('are all here', () => {
    const wrong = () => parseSkiffCore('containers: {probe: {image: x, nothing: 1}}', 'f')
    const [, known = ''] = /known: (.*?)\)/.exec(messageOf(wrong)) ?? []
    expect([...KEYS.map(([key]) => key), ...ELSEWHERE].sort()).toEqual(known.split(', ').sort())
  })

  it.each(KEYS)('%s has its effect', async (key, value, read, wanted) => {
    const text = stringify({ containers: { probe: { image: 'bb:1', entrypoint: ['/bin/true'], [key]: value } } })
    const spec = parseSkiffCore(text, 'skiff-core.yaml').core.containers.get('probe')
    if (spec === undefined) throw new Error('no container')
    const without = parseSkiffCore('containers: {probe: {image: "bb:1", entrypoint: [/bin/true]}}', 'f')
    const plain = without.core.containers.get('probe')
    // A change of this key alone has the container made anew; the restart policy is set without.
    expect(definitionOf(spec) === (plain && definitionOf(plain))).toBe(key === 'restartPolicy')
    await engine.remove('probe')
    await engine.create(
      'probe',
      createOptions('probe', spec, { carried: [], lockDirectory: '/tmp/locks', hasTini: false }),
      'probe',
    )
    expect(read(await rig.docker.getContainer('probe').inspect())).toEqual(wanted)
  })
})

function messageOf(call: () => unknown): string {
  try {
    call()
    return ''
  } catch (error) {
    return String(error)
  }
}
