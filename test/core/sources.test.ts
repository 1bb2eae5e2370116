import { execFileSync, spawn } from 'node:child_process'
import {
  createReadStream,
  createWriteStream,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { Engine } from '../../agent/core/engine.ts'
import { incompressible } from '../fleet/build-images.ts'
import { CoreRig } from './core-rig.ts'
import { EngineRig } from './engine-rig.ts'

const SLEEP = { entrypoint: ['/bin/sleep', '1d'], stopTimeoutSeconds: 0, startAfterCreate: true }
const REGISTRY = '127.0.0.1:5000'

describe('where images come from', () => {
  const engine = new EngineRig()
  let rig: CoreRig

  beforeAll(async () => {
    await engine.start()
    await engine.busybox('bb:1')
  })
  afterAll(() => engine.close())
  beforeEach(() => {
    rig = new CoreRig(engine)
  })
  afterEach(() => rig.stop())

  it('a registry, with credentials, falling back to what is here when it is out of reach', async () => {
    const config = join(rig.directory, 'registry.yml')
    execFileSync('sh', ['-c', `htpasswd -Bbn robot secret > "$1"`, 'sh', join(rig.directory, 'htpasswd')])
    writeFileSync(
      config,
      JSON.stringify({
        version: '0.1',
        storage: { filesystem: { rootdirectory: join(rig.directory, 'registry') } },
        http: { addr: REGISTRY },
        auth: { htpasswd: { realm: 'here', path: join(rig.directory, 'htpasswd') } },
      }),
    )
    const registry = spawn('nsenter', [`--net=/run/netns/${engine.namespace}`, 'docker-registry', 'serve', config], {
      stdio: 'ignore',
    })
    try {
      const auth = { username: 'robot', password: 'secret', serveraddress: REGISTRY }
      await engine.docker.getImage('bb:1').tag({ repo: `${REGISTRY}/robots/arm`, tag: '1' })
      const push = async () => {
        const stream = await engine.docker.getImage(`${REGISTRY}/robots/arm:1`).push({}, undefined, auth)
        let said = ''
        for await (const part of stream) said += String(part)
        if (said.includes('errorDetail')) throw new Error(said)
      }
      for (let n = 0; ; n += 1) {
        const failed = await push().then(
          () => undefined,
          (error: unknown) => error,
        )
        if (failed === undefined) break
        if (n > 100) throw failed
        await pause(100)
      }
      await engine.docker.getImage(`${REGISTRY}/robots/arm:1`).remove()
      const credentials = join(rig.directory, 'config.json')
      const entry = { auth: Buffer.from('robot:secret').toString('base64') }
      writeFileSync(credentials, JSON.stringify({ auths: { [REGISTRY]: entry } }))
      const pull = { policy: 'always', registry: REGISTRY }
      rig.write({
        containers: { arm: { ...SLEEP, image: 'robots/arm:1' }, shut: { ...SLEEP, image: 'robots/arm:2' } },
        images: { 'robots/arm:1': { pull: { ...pull, credentials } }, 'robots/arm:2': { pull } },
      })
      await rig.start()
      await rig.untilSettled('arm')
      const shut = await rig.until('shut', ({ reason }) => reason.includes('pull'))
      expect(shut.reason).toMatch(/pull 127.0.0.1:5000\/robots\/arm:2: .*(no basic auth|unauthorized|denied)/)
      await rig.stop()
    } finally {
      const ended = new Promise((resolve) => registry.once('exit', resolve))
      registry.kill()
      await ended
    }
    // No network: the policy asks for a pull, and what is here is run.
    await engine.docker.getContainer('arm').remove({ force: true })
    await rig.start()
    await rig.untilSettled('arm')
    await rig.engine.docker.getContainer('arm').remove({ force: true })
  })

  it('a git repository, at the branch that the file names', async () => {
    const work = join(rig.directory, 'recipe.git')
    const git = (...args: string[]) =>
      execFileSync('git', ['-C', work, '-c', 'user.name=t', '-c', 'user.email=t@t', ...args])
    mkdirSync(work)
    git('init', '-q', '-b', 'main')
    writeFileSync(join(work, 'Dockerfile'), 'FROM bb:1\nRUN false\n')
    git('add', '.')
    git('commit', '-qm', 'broken')
    git('checkout', '-qb', 'robot')
    writeFileSync(join(work, 'Dockerfile'), 'FROM bb:1\nRUN echo git > /etc/from\n')
    git('commit', '-qam', 'works')
    git('checkout', '-q', 'main')
    rig.write({
      containers: { made: { ...SLEEP, image: 'made:1' } },
      images: { 'made:1': { pull: { policy: 'never' }, build: { source: `file://${work}`, ref: 'robot' } } },
    })
    await rig.start()
    await rig.untilSettled('made')
    await engine.docker.getContainer('made').remove({ force: true })
  })

  it('is said when an image is for another architecture, or nowhere to be had', async () => {
    const tree = join(rig.directory, 'tree')
    const archive = join(rig.directory, 'other.tar')
    mkdirSync(tree)
    await save(engine, 'bb:1', archive)
    execFileSync('tar', ['-C', tree, '-x', '-f', archive])
    const manifest = readFileSync(join(tree, 'manifest.json'), 'utf8').replaceAll('bb:1', 'other:1')
    const [, config = ''] = /"Config":"([^"]+)"/.exec(manifest) ?? []
    writeFileSync(join(tree, 'manifest.json'), manifest)
    writeFileSync(join(tree, config), readFileSync(join(tree, config), 'utf8').replace('"amd64"', '"arm64"'))
    execFileSync('tar', [
      '-C',
      tree,
      '-c',
      '-f',
      archive,
      ...readdirSync(tree).filter((name) => name !== 'repositories'),
    ])
    for await (const _ of await engine.docker.loadImage(createReadStream(archive)));
    rig.write({
      containers: { other: { ...SLEEP, image: 'other:1' }, none: { ...SLEEP, image: 'none:1' } },
      images: { 'none:1': { pull: { policy: 'never' } } },
    })
    await rig.start()
    const other = await rig.until('other', ({ state }) => state === 'waiting')
    expect(other.reason).toContain('image other:1: it is for arm64, this device is amd64')
    const none = await rig.until('none', ({ reason }) => reason.includes('not on this device'))
    expect(none.reason).toContain('flotilla containers add')
  })
})

describe('an engine that cannot', () => {
  it('says that its disk is full while an image is loaded, and what it had stays', async () => {
    const rig = new EngineRig()
    const data = join(rig.directory, 'data')
    mkdirSync(data)
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=40m', 'tmpfs', data])
    try {
      await rig.start()
      await rig.busybox('bb:1')
      const engine = await Engine.open(rig.socket)
      const archive = join(rig.directory, 'large.tar')
      await makeArchive(rig.directory, archive)
      await expect(engine.load(archive, () => {})).rejects.toMatchObject({ code: 'NOT_ENOUGH_SPACE' })
      expect(await engine.image('bb:1')).toBeDefined()
    } finally {
      await rig.close()
    }
  })

  it('is refused when it is too old', async () => {
    const rig = new EngineRig() // for its directory; no engine of that age is to be had
    const server = createServer((_, answer) =>
      answer.end(JSON.stringify({ Version: '17.03', ApiVersion: '1.26', Arch: 'arm' })),
    )
    const socket = join(rig.directory, 'old.sock')
    await new Promise<void>((resolve) => server.listen(socket, resolve))
    await expect(Engine.open(socket)).rejects.toThrow(/version 17.03 \(API 1.26\); API 1.40 or newer is needed/)
    server.close()
    rmSync(rig.directory, { recursive: true })
    await expect(Engine.open(socket)).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })
})

/** An image of 60 MB that does not compress, as `docker save` writes it. */
async function makeArchive(directory: string, out: string): Promise<void> {
  const rig = new EngineRig()
  try {
    await rig.start()
    const tree = join(directory, 'large')
    mkdirSync(tree)
    writeFileSync(join(tree, 'noise'), incompressible('large', 60 * 2 ** 20))
    await rig.importTree('large:1', tree)
    await save(rig, 'large:1', out)
  } finally {
    await rig.close()
  }
}

async function save({ docker }: EngineRig, name: string, out: string): Promise<void> {
  await pipeline(await docker.getImage(name).get(), createWriteStream(out))
}
