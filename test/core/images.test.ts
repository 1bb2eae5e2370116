import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  addImage,
  buildInEngine,
  listImages,
  removeImage,
  saveFromEngine,
  snapshotContainer,
} from '../../builder/containers/add-image.ts'
import { incompressible } from '../fleet/build-images.ts'
import { EngineRig } from './engine-rig.ts'

describe('container images for a release', () => {
  const rig = new EngineRig()
  const images = join(rig.directory, 'images')
  const saved = join(rig.directory, 'saved.tar')

  beforeAll(async () => {
    await rig.start()
    process.env['DOCKER_HOST'] = `unix://${rig.socket}`
    mkdirSync(images)
    // A base that both versions have, and a layer above it.
    await rig.busybox('base:1', { 'var/data': Buffer.from(incompressible('base', 3 * 2 ** 20)).toString('latin1') })
    await build('nav:1', 'one')
    await pipeline(await saveFromEngine('nav:1'), createWriteStream(saved))
  })
  afterAll(async () => {
    delete process.env['DOCKER_HOST']
    await rig.close()
  })

  async function build(name: string, text: string): Promise<void> {
    const context = join(rig.directory, 'context')
    mkdirSync(context, { recursive: true })
    writeFileSync(join(context, 'Dockerfile'), `FROM base:1\nRUN echo ${text} > /etc/nav\nCMD ["/bin/sleep", "1d"]\n`)
    const tar = execFileSync('tar', ['-C', context, '-c', '.'])
    const file = join(rig.directory, 'context.tar')
    writeFileSync(file, tar)
    const stream = await rig.docker.buildImage(file, { t: name })
    await new Promise((resolve, reject) =>
      rig.docker.modem.followProgress(stream, (error: unknown) => (error ? reject(error) : resolve(undefined))),
    )
  }

  it('come from the engine, are the same bytes every time, and cost the next version only what changed', async () => {
    const first = await addImage(images, () => saveFromEngine('nav:1'), 'nav:1')
    const { Id, Architecture } = await rig.docker.getImage('nav:1').inspect()
    expect(first).toMatchObject({ name: 'nav:1', digest: Id, architecture: Architecture, isNew: true })
    expect(first.fetchBytes).toBeGreaterThan(3 * 2 ** 20)
    const bytes = readFileSync(first.file)
    const again = await addImage(images, async () => createReadStream(saved), undefined)
    expect(again).toMatchObject({ digest: Id, fetchBytes: 0, isNew: false, file: first.file })
    expect(readFileSync(again.file).equals(bytes)).toBe(true)
    await build('nav:2', 'two')
    const second = await addImage(images, () => saveFromEngine('nav:2'), 'nav:2')
    expect(second.file).toBe(first.file)
    expect(second.lengthBytes).toBeGreaterThan(3 * 2 ** 20)
    expect(second.fetchBytes).toBeLessThan(300_000)
    expect([...(await listImages(images))]).toEqual([
      ['containers/nav.tar', { name: 'nav:2', digest: second.digest, architecture: Architecture }],
    ])
  })

  it('are loaded by the engine as the very same image', async () => {
    const { file, digest } = await addImage(images, async () => createReadStream(saved), 'nav:1')
    await rig.docker.getImage('nav:1').remove({ force: true })
    const answer = await rig.docker.loadImage(createReadStream(file))
    for await (const _ of answer);
    expect((await rig.docker.getImage('nav:1').inspect()).Id).toBe(digest)
  })

  it.each([
    ['gzip', gzipSync],
    ['zstd', zstdCompressSync],
  ])('come from an OCI archive whose layers are compressed with %s', async (_, compress) => {
    const tree = join(rig.directory, 'oci')
    const plain = join(rig.directory, 'plain')
    for (const path of [tree, plain]) rmSync(path, { recursive: true, force: true })
    mkdirSync(join(tree, 'blobs/sha256'), { recursive: true })
    mkdirSync(plain)
    execFileSync('tar', ['-C', plain, '-x', '-f', saved])
    const [manifest] = JSON.parse(readFileSync(join(plain, 'manifest.json'), 'utf8')) as {
      Config: string
      Layers: string[]
    }[]
    const put = (bytes: Buffer) => {
      const digest = createHash('sha256').update(bytes).digest('hex')
      writeFileSync(join(tree, 'blobs/sha256', digest), bytes)
      return { digest: `sha256:${digest}`, size: bytes.length }
    }
    const oci = {
      schemaVersion: 2,
      config: put(readFileSync(join(plain, manifest?.Config ?? ''))),
      layers: manifest?.Layers.map((layer) => put(compress(readFileSync(join(plain, layer))))),
    }
    const entry = {
      ...put(Buffer.from(JSON.stringify(oci))),
      annotations: { 'io.containerd.image.name': 'robots/nav:1' },
    }
    writeFileSync(join(tree, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [entry] }))
    writeFileSync(join(tree, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}')
    const archive = join(rig.directory, 'oci.tar')
    execFileSync('tar', ['-C', tree, '-c', '-f', archive, '.'])
    const added = await addImage(images, async () => createReadStream(archive), undefined)
    expect(added).toMatchObject({ name: 'robots/nav:1', digest: (await rig.docker.getImage('nav:1').inspect()).Id })
    removeImage(images, 'robots/nav')
  })

  it('are built from a recipe with arguments; a build that fails says its last words', async () => {
    const recipe = join(rig.directory, 'recipe')
    mkdirSync(recipe)
    writeFileSync(join(recipe, 'Dockerfile'), 'ARG BASE=none\nFROM ${BASE}\nRUN echo recipe > /etc/from\n')
    const lines: string[] = []
    await buildInEngine(recipe, 'made:1', { BASE: 'base:1' }, (line) => lines.push(line))
    expect(lines.join('\n')).toContain('RUN echo recipe')
    expect(await addImage(images, () => saveFromEngine('made:1'), 'made:1')).toMatchObject({ name: 'made:1' })
    removeImage(images, 'made:1')
    await expect(buildInEngine(recipe, 'made:2', {}, () => {})).rejects.toMatchObject({ code: 'BUILD_FAILED' })
    await expect(buildInEngine(images, 'made:3', {}, () => {})).rejects.toThrow(/has no Dockerfile/)
  })

  it('are made of a container as it is now, without its volumes', async () => {
    const made = await rig.docker.createContainer({
      name: 'old-robot',
      Image: 'nav:1',
      HostConfig: { Binds: ['data:/var/v'] },
    })
    await made.start()
    const exec = await made.exec({
      Cmd: ['/bin/sh', '-c', 'echo changed > /etc/nav; echo no > /var/v/x'],
      AttachStdout: true,
    })
    for await (const _ of await exec.start({}));
    await snapshotContainer('old-robot', 'robot:1')
    const added = await addImage(images, () => saveFromEngine('robot:1'), 'robot:1')
    expect(added.fetchBytes).toBeLessThan(300_000) // its base is there already, in nav
    const probe = await rig.docker.createContainer({
      name: 'probe',
      Image: 'robot:1',
      Cmd: ['/bin/sh', '-c', 'cat /etc/nav; ls /var/v'],
      Tty: true,
    })
    await probe.start()
    expect(((await probe.wait()) as { StatusCode: number }).StatusCode).toBe(0)
    const words = await probe.logs({ stdout: true })
    expect(words.toString()).toBe('changed\r\n')
  })

  it('are refused when they are damaged, or no image; nothing that was there is lost', async () => {
    const before = readFileSync(join(images, 'containers/nav.tar'))
    const flipped = readFileSync(saved)
    const at = flipped.length >> 1
    flipped[at] = (flipped[at] ?? 0) ^ 1
    const damaged = join(rig.directory, 'damaged.tar')
    writeFileSync(damaged, flipped)
    const cases: readonly (readonly [string, RegExp])[] = [
      [damaged, /its configuration says|not an archive/],
      ['/etc/passwd', /not an archive that can be read|neither manifest.json/],
    ]
    for (const [file, words] of cases)
      await expect(addImage(images, async () => createReadStream(file), 'nav:1')).rejects.toThrow(words)
    writeFileSync(join(images, 'containers/odd.tar.gz'), gzipSync('odd'))
    await expect(listImages(images)).rejects.toThrow(/odd.tar.gz: .*flotilla containers add/)
    rmSync(join(images, 'containers/odd.tar.gz'))
    expect(readFileSync(join(images, 'containers/nav.tar')).equals(before)).toBe(true)
    await expect(saveFromEngine('never-made:1')).rejects.toThrow(
      /save image never-made:1: .*(no such image|does not exist)/i,
    )
  })
})
