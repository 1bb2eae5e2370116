import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { FlotillaError } from '../errors.ts'
import { parseSkiffCore } from './skiff-core.ts'

const parse = (text: string, options = {}) => parseSkiffCore(text, 'skiff-core.yaml', options)
const container = (lines: string) => parse(`containers:\n  cc:\n    image: i\n${lines}`).core.containers.get('cc')

describe('skiff-core.yaml', () => {
  it('is read with every key of a container', () => {
    const found = container(`    tty: true
    workingDirectory: /w
    mounts: ["/dev:/dev", "data:/data:ro"]
    volumes: ["more:/more"]
    disableInit: true
    privileged: true
    capAdd: [ALL]
    capDrop: [NET_RAW]
    hostIPC: true
    hostPID: true
    hostUTS: true
    hostNetwork: true
    securityOpt: [seccomp=unconfined]
    tmpFs: {/run: "rw"}
    entrypoint: /sbin/init
    cmd: [a, "2"]
    env: [A=1, B=]
    ports:
      - {hostPort: 8080, containerPort: 80}
      - {hostPort: 53, containerPort: 53, protocol: udp, hostAddress: 127.0.0.1}
    dns: [1.1.1.1]
    dnsSearch: [local]
    hosts: ["a:10.0.0.1"]
    restartPolicy: never
    startAfterCreate: true
    stopSignal: RTMIN+3
    stopTimeoutSeconds: 5
    devices: [/dev/ttyUSB0]
    networks: [robots]
    labels: {a: b}
    user: "1000"
    hostname: h
    ulimits: {nofile: 1024, memlock: {soft: -1, hard: -1}}
    memory: 512m
    cpus: 1.5
    shmSize: 1.5G
    readOnly: true
    runtime: nvidia
    gpus: all
    healthCheck: {test: curl -f localhost, retries: 5}`)
    expect(found).toEqual({
      image: 'i',
      tty: true,
      workingDirectory: '/w',
      mounts: ['/dev:/dev', 'data:/data:ro', 'more:/more'],
      disableInit: true,
      privileged: true,
      capAdd: ['ALL'],
      capDrop: ['NET_RAW'],
      hostIPC: true,
      hostPID: true,
      hostUTS: true,
      hostNetwork: true,
      securityOpt: ['seccomp=unconfined'],
      tmpFs: { '/run': 'rw' },
      entrypoint: ['/sbin/init'],
      cmd: ['a', '2'],
      env: ['A=1', 'B='],
      ports: [
        { hostPort: 8080, containerPort: 80, protocol: 'tcp', hostAddress: undefined },
        { hostPort: 53, containerPort: 53, protocol: 'udp', hostAddress: '127.0.0.1' },
      ],
      dns: ['1.1.1.1'],
      dnsSearch: ['local'],
      hosts: ['a:10.0.0.1'],
      restartPolicy: 'no',
      startAfterCreate: true,
      stopSignal: 'RTMIN+3',
      stopTimeoutSeconds: 5,
      devices: ['/dev/ttyUSB0'],
      networks: ['robots'],
      labels: { a: 'b' },
      user: '1000',
      hostname: 'h',
      ulimits: [
        { name: 'nofile', soft: 1024, hard: 1024 },
        { name: 'memlock', soft: -1, hard: -1 },
      ],
      memoryBytes: 512 * 2 ** 20,
      cpus: 1.5,
      shmBytes: 1.5 * 2 ** 30,
      readOnly: true,
      runtime: 'nvidia',
      gpus: 'all',
      healthCheck: {
        test: ['CMD-SHELL', 'curl -f localhost'],
        intervalSeconds: 30,
        timeoutSeconds: 30,
        retries: 5,
        startSeconds: 0,
      },
      dependsOn: [],
      updateLock: undefined,
    })
  })

  it('is read with users and images, and both spellings of the pull policy', () => {
    const { core } = parse(`prune: true
containers: {cc: {image: a}, dd: {image: b, dependsOn: [cc]}}
users:
  core: {container: cc, containerShell: /bin/zsh, auth: {copyRootKeys: true, sshKeys: [k], locked: true}}
images:
  a:latest: {pull: {policy: ifnotexists, registry: quay.io}}
  b: {pull: {pullPolicy: always}, build: {source: /opt/b, buildArgs: {V: 1}, squash: true}}
  c: {}
`)
    expect(core.prune).toBe(true)
    expect(core.users.get('core')).toMatchObject({ containerShell: ['/bin/zsh'], auth: { locked: true, password: '' } })
    expect([...core.images.values()].map(({ pullPolicy }) => pullPolicy)).toEqual([
      'ifnotpresent',
      'always',
      'ifnotpresent',
    ])
    expect(core.images.get('b')?.build).toEqual({
      source: '/opt/b',
      ref: undefined,
      sha256: undefined,
      dockerfile: 'Dockerfile',
      buildArgs: { V: '1' },
    })
  })

  it.each([
    ['containers:\n  cc:\n    imag: i\n', /^skiff-core.yaml:3:5: no such key: imag \(known: image, .*\) \(imag: i\)$/],
    ['containers:\n  cc:\n    tty: true\n', /:3:5: containers.cc: image is missing/],
    ['containers:\n  cc:\n', /:2:3: containers.cc: wanted keys and values/],
    ['containers: {cc: {image: i, tty: 1}}', /:1:34: containers.cc.tty: wanted true or false/],
    ['containers: {cc: {image: i, mounts: [/dev]}}', /containers.cc.mounts\[0\]: wanted source:\/target/],
    ['containers: {cc: {image: i, env: [A]}}', /containers.cc.env\[0\]: wanted NAME=value/],
    ['containers: {cc: {image: i, ports: [{hostPort: 0}]}}', /hostPort: wanted a whole number from 1 to 65535/],
    ['containers: {cc: {image: i, restartPolicy: sometimes}}', /restartPolicy: wanted one of no, always/],
    ['containers: {cc: {image: i, memory: lots}}', /memory: wanted a size such as 512m/],
    ['containers: {c/d: {image: i}}', /containers.c\/d: not a name/],
    ['containers: {cc: {image: i, dependsOn: [dd]}}', /there is no container d/],
    [
      'containers: {cc: {image: i, dependsOn: [dd]}, dd: {image: i, dependsOn: [cc]}}',
      /containers.cc.dependsOn: it waits for/,
    ],
    ['users: {u: {container: cc}}', /users.u: there is no container c/],
    ['images: {i: {build: {source: x, sha256: y}}}', /sha256: wanted 64 hexadecimal digits/],
    ['containers: [', /^skiff-core.yaml: /],
    ['- a', /:1:1: the file: wanted keys and values/],
  ])('says what is wrong, and where: %j', (text, words) => {
    expect(() => parse(text)).toThrow(words)
  })

  it('takes a key that is there twice with one value, and names both lines when they differ', () => {
    const twice = (second: string) =>
      `containers:\n  cc:\n    image: i\n    entrypoint: [a]\n    tty: true\n    entrypoint: ${second}\n`
    expect(parse(twice('[a]')).warnings).toEqual([
      'skiff-core.yaml:4:5 and skiff-core.yaml:6:5: containers.cc.entrypoint is there twice',
    ])
    expect(() => parse(twice('[b]'))).toThrow(
      /:6:5: .* at skiff-core.yaml:4:5 and skiff-core.yaml:6:5, with two values/,
    )
  })

  it('warns of unknown keys in a file of SkiffOS', () => {
    const text = 'containers: {cc: {image: i, new: 1}}\nversion: 1\n'
    const { core, warnings } = parse(text, { lenient: true })
    expect(core.containers.get('cc')?.image).toBe('i')
    expect(warnings).toEqual([
      'skiff-core.yaml:2:1: no such key: version; it is ignored',
      'skiff-core.yaml:1:29: no such key: new; it is ignored',
    ])
  })

  it('follows aliases and merge keys; own keys win', () => {
    const { core } = parse('containers:\n  aa: &base {image: i, tty: true}\n  bb: *base\n  cc: {<<: *base, image: j}\n')
    expect(core.containers.get('bb')?.image).toBe('i')
    expect(core.containers.get('cc')).toMatchObject({ image: 'j', tty: true })
    // As many as a fleet of sensors has.
    const mounts = '&m ["data:/data"]'
    const many = Array.from({ length: 200 }, (_, at) => `  c${at}: {image: i, mounts: *m}\n`).join('')
    const { containers } = parse(`containers:\n  aa: {image: i, mounts: ${mounts}}\n${many}`).core
    expect([...containers.values()].every((one) => one.mounts[0] === 'data:/data')).toBe(true)
  })

  it.each([
    ['containers: {cc: {image: i, readOnly: *typo}}', /:1:39: containers.cc.readOnly: \*typo stands for nothing/],
    ['containers: *typo\nprune: true\n', /:1:13: containers: \*typo stands for nothing/],
    ['users: {u: {container: cc, auth: {sshKeys: [*k]}}}', /\*k stands for nothing/],
    ['containers: {cc: {image: i, env: [~]}}', /containers.cc.env\[0\]: wanted a value/],
    ['images: {i: {pull: {policy: always, pullPolicy: never}}}', /pullPolicy says never, policy says always/],
  ])('does not read a slip as a key that is not there: %j', (text, words) => {
    expect(() => parse(text)).toThrow(words)
  })

  it('refuses aliases without end, and does not take long over nonsense', () => {
    const many = Array.from({ length: 1_100 }, (_, at) => `  c${at}: *base\n`).join('')
    expect(() => parse(`containers:\n  a: &base {image: i}\n${many}`)).toThrow(/more than 1000 aliases/)
    const startedMs = performance.now()
    parse('a:\n'.repeat(80_000), { lenient: true })
    expect(performance.now() - startedMs).toBeLessThan(20_000) // minutes before
  })

  it('keeps values as they are written', () => {
    const found = container('    labels: {1.10: 1.10, yes: }\n    healthCheck: {test: [CMD-SHELL, x], retries: 1}')
    expect(found?.labels).toEqual({ '1.10': '1.10', yes: '' })
    expect(found?.healthCheck?.test).toEqual(['CMD-SHELL', 'x'])
    const { core } = parse('images: {i: {build: {source: s, buildArgs: {A: , B: x}}}}')
    expect(core.images.get('i')?.build?.buildArgs).toEqual({ A: null, B: 'x' })
  })

  it('refuses whatever it cannot read with a code, whatever it is', () => {
    const words = fc.constantFrom(
      'containers',
      'c',
      ':',
      '\n',
      '  ',
      '- ',
      '{',
      '}',
      '[',
      ']',
      '&a ',
      '*a',
      '!!map ',
      '"',
      'image',
      ', ',
      '? ',
      '|',
    )
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.array(words, { maxLength: 40 }).map((list) => list.join('')),
        ),
        (text) => {
          try {
            parse(text)
          } catch (error) {
            expect(error).toBeInstanceOf(FlotillaError)
          }
        },
      ),
      { numRuns: 2_000 },
    )
  })

  /** The shapes that SkiffOS's own layers have (facts/skiffos.md 5.5), written afresh. */
  const system = (shell: string, more = '') => `containers:
  core:
    image: skiffos/skiff-core-x:latest
    entrypoint: ["/lib/systemd/systemd"]
    env: ["container=docker"]
    tty: true
    disableInit: true
    stopSignal: RTMIN+3
    privileged: true
    capAdd: [ALL]
    hostIPC: true
    hostUTS: true
    hostNetwork: true
    securityOpt: ["seccomp=unconfined"]
    tmpFs: {/run: "rw,noexec", /run/lock: ""}
    restartPolicy: "always"
    startAfterCreate: true
    mounts: ["/dev:/dev", "/etc/hostname:/etc/hostname:ro", "/mnt/persist/skiff/core/repos/x/log:/var/log"]
${more}users:
  core:
    container: core
    containerUser: core
    containerShell: [${shell}]
    auth: {copyRootKeys: true, allowEmptyPassword: true, locked: false}
images:
  skiffos/skiff-core-x:latest:
    pull: {policy: ifnotexists, registry: quay.io}
    build: {source: /opt/skiff/coreenv/x, buildArgs: {DISTRO: sid}, preserveIntermediate: true, squash: false}
`
  it.each([
    ['debian', system('/bin/bash'), 0],
    ['ubuntu, with name servers', system('/bin/bash', '    dns: [1.1.1.1, 8.8.8.8]\n'), 0],
    ['a voxl, which has a key twice', system('/bin/bash', '    entrypoint: ["/lib/systemd/systemd"]\n'), 1],
    [
      'gentoo',
      system('/bin/bash').replace('containerUser: core', 'containerUser: core\n    createContainerUser: true'),
      0,
    ],
    ['alpine, build only', system('/bin/sh').replace(/ {4}pull: .*\n/, ''), 0],
    ['nixos', system('/run/current-system/sw/bin/bash').replace('"/lib/systemd/systemd"', '/init'), 0],
    [
      'an application',
      'containers:\n  jellyfin:\n    image: jellyfin/jellyfin:latest\n    mounts: ["/mnt/persist/media:/media"]\n    restartPolicy: unless-stopped\nusers: {core: {container: jellyfin, containerUser: root}}\n',
      0,
    ],
    [
      'two accounts of one container',
      `${system('/bin/bash').split('images:')[0]}  cfs: {container: core, containerUser: cfs, containerShell: /bin/bash}\nimages: {}\n`,
      0,
    ],
  ])("reads what SkiffOS's layers bring: %s", (_, text, warnings) => {
    const found = parse(text, { lenient: true })
    expect(found.warnings).toHaveLength(warnings)
    expect(found.core.containers.size).toBe(1)
    expect([...found.core.users.values()].every(({ container: name }) => found.core.containers.has(name))).toBe(true)
  })
})
