import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { NO_ROLLOUT } from '../../protocol/rollout/rollout-plan.ts'
import { findRelease } from '../../protocol/release/find-release.ts'
import { judgeBundle } from '../../protocol/trust/metadata-bundle.ts'
import { DEVICE_RULES, trustRoot } from '../../protocol/trust/trusted-set.ts'
import { exportArchive, importArchive } from './archive.ts'
import { prepareRelease } from './create-release.ts'
import { diffReleases } from './diff-releases.ts'
import { createDevKeys, type FleetKeys, groupKeys } from './fleet-keys.ts'
import { composeFleet } from './init-fleet.ts'
import { createKeyFile, listKeys, openKey } from './key-file.ts'
import { Repository } from './repository.ts'
import { replaceKey } from './rotate-key.ts'
import {
  mergeStaged,
  publishStaged,
  readStaged,
  signStaged,
  stage,
  stagingDirectory,
  summarizeStaged,
} from './staging.ts'
import { verifyRelease } from './verify-release.ts'

const PASS = 'correct horse'
const NOW = Date.UTC(2026, 10, 24)

describe('a signing ceremony', () => {
  const root = mkdtempSync(join(tmpdir(), 'flotilla-ceremony-'))
  const images = join(root, 'images')
  const options = {
    board: 'pi-4',
    channel: 'stable',
    version: '1',
    images,
    containerImages: new Map(),
    hardware: [],
    minSeq: undefined,
    health: { deadlineSeconds: 60, tries: 3 },
    rollout: NO_ROLLOUT,
    from: undefined,
    data: undefined,
    notes: '',
    nowMs: NOW,
    onProgress: () => {},
  }
  let repository: Repository
  let keys: FleetKeys
  const staging = () => stagingDirectory(repository)
  const open = (...list: { path: string }[]) => list.map((key) => openKey(key.path, PASS))
  const publish = (nowMs = NOW) =>
    publishStaged(repository, staging(), { publishers: open(...keys.publisher), nowMs, minRoot: undefined })

  beforeAll(() => {
    mkdirSync(join(images, 'containers'), { recursive: true })
    writeFileSync(join(images, 'Image'), Buffer.alloc(300_000, 'kernel'))
    writeFileSync(join(images, 'rootfs.squashfs'), Buffer.alloc(400_000, 'root'))
    writeFileSync(join(images, 'containers/nav.tar'), 'tar')
    repository = Repository.create(join(root, 'repo'), 'demo')
    keys = createDevKeys(join(root, 'keys'), PASS)
    for (const key of keys.publisher) cpSync(key.path, join(root, 'repo', `${key.name}.key`))
  })

  afterAll(() => rmSync(root, { recursive: true }))

  it('keeps secrets encrypted, and opens them only with the passphrase', () => {
    const [key] = keys.root
    if (key === undefined) throw new Error('no key')
    expect(readFileSync(key.path, 'utf8')).not.toContain(
      Buffer.from(openKey(key.path, PASS).sign(Buffer.from('x'))).toString('hex'),
    )
    expect(() => openKey(key.path, 'wrong')).toThrow(expect.objectContaining({ code: 'WRONG_PASSPHRASE' }))
    expect(() => createKeyFile(join(root, 'keys'), key.name, 'root', PASS)).toThrow(
      expect.objectContaining({ code: 'ALREADY_EXISTS' }),
    )
    expect(() => groupKeys(keys.root)).toThrow(/manager keys/)
  })

  it('stretches the passphrase once for keys that were made together, and for no others', () => {
    const saltOf = ({ path }: { readonly path: string }) =>
      (JSON.parse(readFileSync(path, 'utf8')) as { secret: { salt: string } }).secret.salt
    const all = Object.values(keys).flat()
    expect(new Set(all.map(saltOf)).size).toBe(1)
    const single = ['one', 'two'].map((name) => createKeyFile(join(root, 'single'), name, 'ci', PASS))
    expect(new Set([...all, ...single].map(saltOf)).size).toBe(3)
  })

  it('refuses to publish a fleet below its thresholds, then publishes it', () => {
    stage(staging(), composeFleet(repository, keys, NOW))
    signStaged(
      repository,
      staging(),
      open(...keys.root.slice(0, 1), ...keys.manager.slice(0, 2), ...keys.fleet.slice(0, 1)),
    )
    expect(() => publish()).toThrow(expect.objectContaining({ code: 'SIGNATURE' }))
    signStaged(repository, staging(), open(...keys.root.slice(1, 2)))
    publish()
    expect(repository.policy().fleet).toBe('demo')
    expect(() => readStaged(staging())).toThrow(expect.objectContaining({ code: 'NOT_FOUND' }))
  })

  it('shows in words what a signature says, and merges signatures from two sticks', () => {
    const prepared = prepareRelease(repository, keys, { ...options, notes: 'two\nlines' })
    stage(staging(), prepared.roles)
    const words = summarizeStaged(repository, readStaged(staging())).join('\n')
    expect(words).toContain('adds delegation pi-4.stable: 2 of 3')
    expect(words).toContain('adds file pi-4/stable/release')
    expect(words).toContain('0 of 2 signatures')
    const sticks = ['alice', 'bob'].map((name) => join(root, name))
    for (const stick of sticks) cpSync(staging(), stick, { recursive: true })
    signStaged(repository, sticks[0] ?? '', open(...keys.manager.slice(0, 1), ...keys.ci))
    signStaged(repository, sticks[1] ?? '', open(...keys.manager.slice(1, 2)))
    for (const stick of sticks) expect(mergeStaged(staging(), stick)).toEqual(['pi-4.stable', 'targets'])
    publish()
    verifyRelease(repository, repository.findRelease('pi-4@1'))
    expect(repository.findRelease('pi-4').description.artifacts.map((artifact) => artifact.kind)).toEqual([
      'kernel',
      'container-image',
      'rootfs',
    ])
  })

  it('counts what a device with one release must fetch for the next, and refuses to publish the same twice', () => {
    expect(() => prepareRelease(repository, keys, options)).toThrow(expect.objectContaining({ code: 'ALREADY_EXISTS' }))
    writeFileSync(join(images, 'containers/nav.tar'), 'tar, changed')
    const { roles, release } = prepareRelease(repository, keys, { ...options, version: '2' })
    stage(staging(), roles)
    signStaged(repository, staging(), open(...keys.manager.slice(0, 2)))
    publish()
    expect(release.description.seq).toBe(2)
    const rows = diffReleases(repository, repository.findRelease('pi-4@1'), repository.findRelease('pi-4@2'))
    expect(rows.map((row) => row.fetchBytes)).toEqual([0, 12, 0])
  })

  it('replaces a publisher key by root and a CI key by targets; a device follows both', () => {
    const device = trustRoot(repository.roots()[0] ?? new Uint8Array(), 0, DEVICE_RULES)
    const before = judgeBundle(device, repository.bundle(), DEVICE_RULES).set
    const [publisher] = keys.publisher
    const [ci] = keys.ci
    if (publisher === undefined || ci === undefined) throw new Error('no key')
    for (const [old, name] of [
      [publisher, 'publisher-new'],
      [ci, 'ci-new'],
    ] as const) {
      const fresh = createKeyFile(join(root, 'keys'), name, old.purpose, PASS)
      stage(staging(), replaceKey(repository, old, fresh, NOW + 1_000))
      signStaged(repository, staging(), open(...keys.root.slice(0, 2), ...keys.manager.slice(0, 2)))
      if (old === publisher) keys = { ...keys, publisher: [fresh] }
      publish(NOW + 2_000)
    }
    const bundle = repository.bundle()
    const verdict = judgeBundle(
      before,
      { ...bundle, roots: bundle.roots.slice(before.root.data.version - 1) },
      DEVICE_RULES,
    )
    expect(verdict.refusal).toBeUndefined()
    expect(verdict.set.root.data.version).toBe(2)
    expect(findRelease(verdict.set, 'pi-4', 'stable', DEVICE_RULES)).toBeDefined()
    expect(listKeys(join(root, 'keys')).some((key) => key.name === 'ci-new')).toBe(true)
  })

  it('goes through a file on a stick with the same checks', async () => {
    const file = join(root, 'stick.tar')
    await exportArchive(repository, [repository.findRelease('pi-4')], file, () => {})
    const other = Repository.create(join(root, 'other'), 'demo')
    other.writeMetadata('1.root.json', repository.roots()[0] ?? new Uint8Array())
    // A workstation that knows only the first root catches up from the stick.
    expect(await importArchive(other, file)).toMatchObject({ superseded: false })
    verifyRelease(other, other.findRelease('pi-4@2'))
    expect(other.roots().length).toBe(2)
    expect(await importArchive(other, file)).toMatchObject({ superseded: false })

    const damaged = readFileSync(file)
    damaged[damaged.length - 8_000] = (damaged[damaged.length - 8_000] ?? 0) ^ 1
    writeFileSync(file, damaged)
    await expect(importArchive(other, file)).rejects.toMatchObject({
      code: expect.stringMatching(/VERIFY_FAILED|BAD_INPUT/) as string,
    })
  })

  it('finds a byte that changed in the repository', () => {
    const release = repository.findRelease('pi-4')
    const path = repository.artifactPath(release.description.artifacts[0]?.sha256 ?? '')
    const bytes = readFileSync(path)
    bytes[100] = (bytes[100] ?? 0) ^ 1
    writeFileSync(path, bytes)
    expect(() => verifyRelease(repository, release)).toThrow(expect.objectContaining({ code: 'VERIFY_FAILED' }))
  })
})
