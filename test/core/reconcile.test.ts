import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { CoreRig } from './core-rig.ts'
import { EngineRig } from './engine-rig.ts'

const SLEEP = { image: 'bb:1', entrypoint: ['/bin/sleep', '1d'], stopTimeoutSeconds: 0, startAfterCreate: true }

describe('containers on a real Docker Engine', () => {
  const engine = new EngineRig()
  let rig: CoreRig

  beforeAll(async () => {
    await engine.start()
    await engine.busybox('bb:1')
    await engine.busybox('bb:2', { 'etc/version': '2' })
  })
  afterAll(() => engine.close())
  beforeEach(() => {
    rig = new CoreRig(engine)
  })
  afterEach(async () => {
    await rig.stop()
    for (const { Id } of await engine.docker.listContainers({ all: true }))
      await engine.docker.getContainer(Id).remove({ force: true, v: true })
    for (const { Name } of (await engine.docker.listVolumes()).Volumes)
      await engine.docker.getVolume(Name).remove({ force: true })
  })

  const write = (containers: object, rest: object = {}) => rig.write({ containers, ...rest })

  it('are made, started, and left alone when they are as the file says', async () => {
    write({ cc: SLEEP, later: { ...SLEEP, startAfterCreate: false } })
    await rig.start()
    expect((await rig.untilSettled('cc')).docker).toBe('running')
    expect((await rig.untilSettled('later')).docker).toBe('created')
    const { Id } = await rig.inspect('cc')
    const steps = rig.steps.length
    rig.reconciler.poke()
    await rig.untilSettled('cc')
    await new Promise((resolve) => setTimeout(resolve, 1_000))
    expect((await rig.inspect('cc')).Id).toBe(Id)
    expect(rig.steps.length).toBe(steps)
  })

  it('get another restart policy without being made anew', async () => {
    write({ cc: SLEEP })
    await rig.start()
    await rig.untilSettled('cc')
    const { Id } = await rig.inspect('cc')
    write({ cc: { ...SLEEP, restartPolicy: 'unless-stopped' } })
    const policy = async () => (await rig.inspect('cc')).HostConfig.RestartPolicy?.Name
    for (let n = 0; (await policy()) !== 'unless-stopped' && n < 200; n += 1) await pause(50)
    expect([await policy(), (await rig.inspect('cc')).Id]).toEqual(['unless-stopped', Id])
  })

  it('are made anew when their definition or their image changes, with every volume kept', async () => {
    await engine.busybox('vol:1', {}, ['VOLUME /anonymous'])
    const spec = { ...SLEEP, image: 'vol:1', mounts: ['named:/named'] }
    write({ cc: spec })
    await rig.start()
    await rig.untilSettled('cc')
    const before = await rig.inspect('cc')
    await run(engine, 'cc', 'echo kept > /anonymous/a; echo kept > /named/n')
    write({ cc: { ...spec, env: ['A=1'] } })
    await rig.until('cc', ({ state }) => state === 'changing')
    await rig.untilSettled('cc')
    const changed = await rig.inspect('cc')
    expect(changed.Id).not.toBe(before.Id)
    expect(changed.Config.Env).toContain('A=1')
    expect(await run(engine, 'cc', 'cat /anonymous/a /named/n')).toBe('kept\nkept\n')

    await engine.busybox('vol:1', { 'etc/version': 'new' }, ['VOLUME /anonymous'])
    await rig.until('cc', ({ state }) => state === 'changing')
    await rig.untilSettled('cc')
    expect((await rig.inspect('cc')).Id).not.toBe(changed.Id)
    expect(await run(engine, 'cc', 'cat /etc/version /anonymous/a')).toBe('newkept\n')
    expect((await rig.all()).map(({ name }) => name)).toEqual(['cc'])
  })

  it('run on in their old form when the new one does not come up, and say why', async () => {
    write({ cc: SLEEP })
    await rig.start()
    await rig.untilSettled('cc')
    const before = (await rig.inspect('cc')).Id
    write({ cc: { ...SLEEP, entrypoint: ['/bin/sh', '-c', 'echo the arm is missing; exit 3'] } })
    const failed = await rig.until('cc', ({ state }) => state === 'failed')
    expect(failed.reason).toContain('exit code 3; it said: the arm is missing')
    const { Id, State } = await rig.inspect('cc')
    expect([Id, State.Running]).toEqual([before, true])
    expect(await rig.all()).toHaveLength(1)
    // The same is not tried again, not even by another agent on the same device.
    await rig.stop()
    const steps = rig.steps.length
    await rig.start()
    await rig.until('cc', ({ state }) => state === 'failed')
    expect(rig.steps.length).toBe(steps)
    write({ cc: { ...SLEEP, env: ['B=1'] } })
    await rig.untilSettled('cc')
    expect((await rig.inspect('cc')).Id).not.toBe(before)
  })

  it('are judged by their health check', async () => {
    const healthy = (test: string) => ({
      ...SLEEP,
      healthCheck: { test, intervalSeconds: 1, timeoutSeconds: 5, retries: 1 },
    })
    write({ cc: healthy('true') })
    await rig.start()
    await rig.until('cc', ({ health, state }) => health === 'healthy' && state === 'as-wanted')
    write({ cc: healthy('false') })
    expect((await rig.until('cc', ({ state }) => state === 'failed')).reason).toContain('its health check fails')
    await rig.until('cc', ({ health, docker }) => docker === 'running' && health === 'healthy')
  })

  it('wait for those that they depend on, and start in that order', async () => {
    write({ bb: { ...SLEEP, dependsOn: ['aa'] }, aa: SLEEP })
    await rig.start()
    await rig.untilSettled('bb')
    expect(rig.steps.indexOf('wait until aa is healthy')).toBeLessThan(rig.steps.indexOf('start bb'))
    expect(rig.steps.indexOf('start aa')).toBeLessThan(rig.steps.indexOf('create bb.flotilla-next'))
  })

  it('are not stopped while they hold, by file or by word, and are then', async () => {
    const spec = { ...SLEEP, updateLock: '/run/lock' }
    write({ cc: spec })
    await rig.start()
    await rig.untilSettled('cc')
    const before = (await rig.inspect('cc')).Id
    await run(engine, 'cc', 'echo "grasping" > /run/lock/hold')
    write({ cc: { ...spec, env: ['A=1'] } })
    const held = await rig.until('cc', ({ state }) => state === 'held')
    expect(held.reason).toContain('held: grasping')
    expect((await rig.inspect('cc')).Id).toBe(before)
    rig.locks.add('cc', 'still grasping', 600)
    await run(engine, 'cc', 'rm /run/lock/hold')
    rig.reconciler.poke()
    await rig.until('cc', ({ reason }) => reason.includes('still grasping'))
    rig.locks.release('cc', undefined)
    rig.reconciler.poke()
    await rig.untilSettled('cc')
    expect((await rig.inspect('cc')).Id).not.toBe(before)
  })

  it('that left the file are stopped, and removed with prune; those of others are never touched', async () => {
    const other = await engine.docker.createContainer({ name: 'foreign', Image: 'bb:1', Cmd: ['/bin/sleep', '1d'] })
    await other.start()
    write({ cc: SLEEP, dd: SLEEP })
    await rig.start()
    await rig.untilSettled('dd')
    write({ cc: SLEEP })
    await rig.until(
      'dd',
      ({ state, docker, steps }) => state === 'left-over' && docker === 'exited' && steps.length === 0,
    )
    expect(['cc', 'dd', 'foreign'].map((name) => rig.reconciler.isUnwanted(name))).toEqual([false, true, false])
    write({ cc: SLEEP }, { prune: true })
    await rig.until('cc', () => rig.container('dd') === undefined)
    // A release without it is not judged bad for that.
    expect(['cc', 'dd', 'foreign'].map((name) => rig.reconciler.isUnwanted(name))).toEqual([false, true, false])
    expect((await rig.all()).map(({ name, state }) => `${name} ${state}`).sort()).toEqual([
      'cc running',
      'foreign running',
    ])
    write({ foreign: SLEEP })
    const clash = await rig.until('foreign', ({ state }) => state === 'failed')
    expect(clash.reason).toContain('docker rename foreign')
    expect((await other.inspect()).State.Running).toBe(true)
  })

  it("that SkiffOS's own program made are taken over as they are, and changed when the file changes", async () => {
    const made = await engine.docker.createContainer({
      name: 'core',
      Image: 'bb:1',
      Entrypoint: ['/bin/sleep', '1d'],
      Env: ['container=docker'],
      HostConfig: { Binds: ['/usr/bin/tini:/dev/init', '/tmp:/mnt'], Init: true },
    })
    await made.start()
    const spec = {
      image: 'bb:1',
      entrypoint: ['/bin/sleep', '1d'],
      env: ['container=docker'],
      mounts: ['/tmp:/mnt'],
      startAfterCreate: true,
    }
    rig.write({ containers: { core: { ...spec, soon: 'x', later: 'y' } } }, 'config.yaml')
    await rig.start()
    await rig.untilSettled('core')
    expect(rig.status.warnings.join()).toContain('no such key: soon')
    expect((await rig.inspect('core')).Id).toBe(made.id)
    expect(rig.steps).toEqual(['take over core as it is'])
    // Each warning is told once, however often the file is looked at.
    rig.reconciler.poke()
    await pause(1_000)
    expect(rig.log.since(0).filter(({ event }) => event === 'core-warning')).toHaveLength(2)
    rig.write({ containers: { core: { ...spec, env: ['container=flotilla'], stopTimeoutSeconds: 0 } } }, 'config.yaml')
    await rig.until('core', ({ state }) => state === 'changing')
    await rig.untilSettled('core')
    expect((await rig.inspect('core')).Id).not.toBe(made.id)
  })

  it('say what is wrong with each, key by key, and go on with the others', async () => {
    const wrong: Readonly<Record<string, readonly [change: object, why: RegExp]>> = {
      mount: [{ mounts: ['/no/such/path:/x'] }, /containers.mount.mounts\[0\]: \/no\/such\/path is not there/],
      device: [{ devices: ['/dev/ttyUSB77'] }, /containers.device.devices\[0\]: \/dev\/ttyUSB77 is not there/],
      runtime: [{ runtime: 'nvidia' }, /containers.runtime.runtime: name one of the engine's runtimes/],
      program: [
        { entrypoint: ['/no/init'], disableInit: true },
        /containers.program.entrypoint: the image has no such/,
      ],
      clash: [{ hostUTS: true, hostname: 'here' }, /two keys exclude each other/],
      gpu: [{ gpus: 'all' }, /containers.gpu.gpus: the engine has no driver/],
      user: [{ user: 'nobody-here' }, /containers.user.user: name a user/],
      exits: [{ entrypoint: ['/bin/sh', '-c', 'echo no arm; exit 5'] }, /exit code 5; it said: no arm/],
    }
    const containers = Object.entries(wrong).map(([name, [change]]) => [name, { ...SLEEP, ...change }])
    write({ ...Object.fromEntries(containers), good: SLEEP })
    await rig.start()
    for (const [name, [, why]] of Object.entries(wrong))
      expect((await rig.until(name, ({ state }) => state === 'failed')).reason).toMatch(why)
    await rig.untilSettled('good')
  })

  it('say which port is in use', async () => {
    const ports = [{ hostPort: 8099, containerPort: 80 }]
    write({ aa: { ...SLEEP, ports }, bb: { ...SLEEP, ports, dependsOn: ['aa'] } })
    await rig.start()
    expect((await rig.until('bb', ({ state }) => state === 'failed')).reason).toMatch(
      /containers.bb.ports: a program or/,
    )
    await rig.untilSettled('aa')
  })

  it('are stopped by nothing when the file becomes wrong; line and column are said', async () => {
    write({ cc: SLEEP })
    await rig.start()
    await rig.untilSettled('cc')
    rig.write('containers:\n  cc:\n    imag: bb:1\n')
    for (let n = 0; rig.status.problem === '' && n < 200; n += 1)
      await new Promise((resolve) => setTimeout(resolve, 50))
    expect(rig.status).toMatchObject({ code: 'BAD_CONFIG' })
    expect(rig.status.problem).toMatch(/skiff-core.yaml:3:5: no such key: imag/)
    expect((await rig.inspect('cc')).State.Running).toBe(true)
    write({ cc: SLEEP })
    for (let n = 0; rig.status.problem !== '' && n < 400; n += 1)
      await new Promise((resolve) => setTimeout(resolve, 50))
    await rig.untilSettled('cc')
  })

  it('converge when the engine dies at any step of a replacement, with no volume lost and never two of one', async () => {
    const spec = { ...SLEEP, mounts: ['data:/data'], disableInit: true, restartPolicy: 'always' }
    write({ cc: spec })
    await rig.start()
    await rig.untilSettled('cc')
    await run(engine, 'cc', 'echo kept > /data/file')
    const cuts: string[] = []
    for (let version = 1; version < 20; version += 1) {
      let at = 0
      let killed: Promise<void> | undefined
      rig.onStep = (step) => {
        at += 1
        if (at !== version) return
        cuts.push(step)
        killed = engine.kill()
      }
      write({ cc: { ...spec, env: [`V=${version}`] } })
      await rig.until('cc', ({ state }) => state === 'changing')
      for (let n = 0; killed === undefined && rig.container('cc')?.state === 'changing' && n < 400; n += 1)
        await pause(50)
      if (killed === undefined) break
      await killed
      rig.onStep = () => {}
      await engine.start()
      rig.reconciler.poke()
      for (;;) {
        const running = (await rig.all()).filter(({ state }) => state === 'running')
        expect(running.length).toBeLessThanOrEqual(1)
        const made = await rig.inspect('cc').catch(() => undefined)
        if (
          (made?.Config.Env ?? []).includes(`V=${version}`) &&
          rig.container('cc')?.state === 'as-wanted' &&
          running.length === 1
        )
          break
        await pause(50)
      }
      expect(await run(engine, 'cc', 'cat /data/file')).toBe('kept\n')
      expect(await rig.all()).toHaveLength(1)
    }
    // Every step of a replacement was cut.
    expect(new Set(cuts.map((cut) => cut.split(' ')[0]))).toEqual(
      new Set(['create', 'set', 'stop', 'rename', 'start', 'wait', 'remove']),
    )
    process.stderr.write(`engine killed at: ${cuts.join(', ')}\n`)
  })

  it('get an image that is built on the device, from a directory and from a tarball whose hash is right', async () => {
    const context = join(rig.directory, 'context')
    mkdirSync(context)
    writeFileSync(join(context, 'Dockerfile'), 'ARG BASE=none\nFROM ${BASE}\nRUN echo built > /etc/built\n')
    const build = { source: context, buildArgs: { BASE: 'bb:1' } }
    write(
      { cc: { ...SLEEP, image: 'made-here:1' } },
      { images: { 'made-here:1': { pull: { policy: 'never' }, build } } },
    )
    await rig.start()
    await rig.untilSettled('cc')
    expect(await run(engine, 'cc', 'cat /etc/built')).toBe('built\n')
    writeFileSync(join(context, 'Dockerfile'), 'FROM bb:1\nRUN echo the compiler is missing; exit 4\n')
    write({ dd: { ...SLEEP, image: 'fails:1' } }, { images: { 'fails:1': { pull: { policy: 'never' }, build } } })
    const failed = await rig.until('dd', ({ reason }) => reason.includes('non-zero code'))
    expect(failed.reason).toMatch(
      /image fails:1: build fails:1: .*returned a non-zero code: 4.*the compiler is missing/,
    )
    const wrong = { source: join(rig.directory, 'x.tar.gz'), sha256: '0'.repeat(64) }
    writeFileSync(wrong.source, 'x')
    write(
      { ee: { ...SLEEP, image: 'wrong:1' } },
      { images: { 'wrong:1': { pull: { policy: 'never' }, build: wrong } } },
    )
    expect((await rig.until('ee', ({ reason }) => reason.includes('SHA-256'))).reason).toContain('the file says 0000')
    rmSync(context, { recursive: true })
  })
})

async function run(engine: EngineRig, name: string, script: string): Promise<string> {
  const exec = await engine.docker
    .getContainer(name)
    .exec({ Cmd: ['/bin/sh', '-c', script], AttachStdout: true, AttachStderr: true, Tty: true })
  const stream = await exec.start({ Tty: true })
  const parts: Buffer[] = []
  for await (const part of stream) parts.push(part as Buffer)
  return Buffer.concat(parts).toString().replaceAll('\r', '')
}
