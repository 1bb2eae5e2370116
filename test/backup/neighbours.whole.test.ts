import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { EngineRig } from '../core/engine-rig.ts'
import { BackupFleet } from './backup-fleet.ts'

/** One device with containers and its neighbours: what can go wrong with copies. The tests follow each other. */
describe('copies of backups on neighbours', () => {
  const engine = new EngineRig()
  const fleet = new BackupFleet()
  let repository = ''

  beforeAll(async () => {
    await fleet.init()
    await engine.start()
    await engine.busybox('nav:1')
    await fleet.add('a', engine, { labels: { site: 'hall' } })
    // In the same hall as the owner: the last choice.
    await fleet.add('b', undefined, { labels: { site: 'hall' }, backups: { scrubSeconds: 4 } })
    await fleet.add('c', undefined, { labels: { site: 'yard' }, backups: { scrubSeconds: 4 } })
    await fleet.add('d', undefined, { labels: { site: 'roof' }, backups: { scrubSeconds: 4 } })
    await fleet.add('full', undefined, { backups: { offerMiB: 1 } })
    policy({ keep: { last: 9 } })
    await fleet.fleet.startAll()
  }, 240_000)
  afterAll(async () => {
    await fleet.close()
    await engine.close()
  })

  function policy(backup: object) {
    fleet.writeCore('a', {
      containers: {
        nav: {
          image: 'nav:1',
          entrypoint: ['/bin/sleep', '1d'],
          startAfterCreate: true,
          stopTimeoutSeconds: 0,
          mounts: ['maps:/maps'],
          backup: { copies: 2, fileSystem: false, ...backup },
        },
      },
      images: { 'nav:1': { pull: { policy: 'never' } } },
    })
  }
  const inside = (script: string) =>
    execFileSync('docker', ['-H', `unix://${engine.socket}`, 'exec', 'nav', '/bin/sh', '-c', script], { stdio: 'pipe' })
  const packsOf = (holder: string) => {
    const data = join(fleet.replica(holder, repository), 'data')
    return readdirSync(data)
      .flatMap((at) => readdirSync(join(data, at)).map((name) => join(data, at, name)))
      .filter((path) => /[0-9a-f]{64}$/.test(path))
      .sort((x, y) => statSync(y).size - statSync(x).size)
  }
  async function untilEvent(name: string, event: string, timeoutMs = 60_000) {
    for (const deadline = performance.now() + timeoutMs; performance.now() < deadline; await pause(150)) {
      const found = (await fleet.fleet.events(name).catch(() => [])).find((one) => one.event === event)
      if (found !== undefined) return found
    }
    throw new Error(`${name} does not tell of ${event}\n${fleet.fleet.logTail(name)}`)
  }

  it('go to devices of other sites, and none to one that is full', async () => {
    inside('head -c 9000000 /dev/urandom > /maps/one')
    await fleet.backUp('a', 'nav')
    repository = (await fleet.backups('a')).head?.repository ?? ''
    await fleet.untilCopied('a', ['c', 'd'])
    expect(fleet.holds('full')).toEqual([])
    expect(fleet.holds('b')).toEqual([])
  })

  it('are whole again after bit rot and a cut file, and the holder says what it found', async () => {
    const [flipped = '', short = ''] = packsOf('c')
    const right = [flipped, short].map((path) => readFileSync(path))
    const wrong = Buffer.from(right[0] ?? [])
    wrong[100] = (wrong[100] ?? 0) ^ 1
    writeFileSync(flipped, wrong)
    truncateSync(short, 10)
    await untilEvent('c', 'bit-rot')
    for (const deadline = performance.now() + 60_000; ; await pause(200)) {
      const now = [flipped, short].map((path) => {
        try {
          return readFileSync(path)
        } catch {
          return Buffer.alloc(0)
        }
      })
      if (now.every((bytes, at) => bytes.equals(right[at] ?? Buffer.alloc(1)))) break
      if (performance.now() > deadline) throw new Error(`not healed\n${fleet.fleet.logTail('c')}`)
    }
  })

  it('that are not there though a holder says so are found out, told of, and fetched again', async () => {
    for (const path of packsOf('d')) rmSync(path)
    const told = await untilEvent('a', 'replica-not-proven')
    expect(told.fields).toMatchObject({ name: 'd', answer: 'gone' })
    await untilEvent('d', 'bit-rot')
    for (const deadline = performance.now() + 60_000; packsOf('d').length < packsOf('c').length; await pause(200))
      if (performance.now() > deadline) throw new Error(`not fetched again\n${fleet.fleet.logTail('d')}`)
  })

  it('survive the owner killed while its container is paused: it goes on, and so do the backups', async () => {
    inside('head -c 60000000 /dev/urandom > /maps/large')
    await fleet.fleet.ask('a', '/backup/now', 'POST', { container: 'nav' })
    for (const deadline = performance.now() + 60_000; ; await pause(5)) {
      const { State } = await engine.docker.getContainer('nav').inspect()
      if (State.Paused) break
      if (performance.now() > deadline) throw new Error('never paused')
    }
    expect(await fleet.fleet.killAgent('a')).toBe(true)
    await untilEvent('a', 'backup-interrupted')
    const { State } = await engine.docker.getContainer('nav').inspect()
    expect(State).toMatchObject({ Running: true, Paused: false })
    await fleet.backUp('a', 'nav')
    await fleet.untilCopied('a', 2)
  })

  it('are made elsewhere when holders are lost, and go on where they were cut off', async () => {
    await fleet.add('e', undefined, { labels: { site: 'dock' }, backups: { fetchKiB: 8_000 } })
    fleet.fleet.start('e')
    await fleet.fleet.until('e', 'meshed', ({ peers }) => peers >= 4)
    for (const lost of ['b', 'd']) await fleet.destroy(lost)
    // The next in turn fetches slowly, and is cut off in the middle.
    const view = await fleet.until('e', 'half there', ({ replicas }) => (replicas[0]?.percent ?? 0) > 20, 120_000)
    expect(view.replicas[0]?.percent).toBeLessThan(100)
    await fleet.fleet.powerOff('e')
    fleet.fleet.start('e')
    const whole = await untilEvent('e', 'replica-whole', 120_000)
    expect(Number(whole.fields['bytes'])).toBeLessThan(0.85 * ((await fleet.backups('a')).head?.bytes ?? 0))
    await fleet.untilCopied('a', ['c', 'e'])
  })

  it('follow a prune that was made while the holder was away, after a grace, and tell of it loudly', async () => {
    await fleet.fleet.powerOff('c')
    inside('rm /maps/*; echo small > /maps/small')
    policy({ keep: { last: 1 } })
    // A prune is made once a day; this one has made none today.
    await fleet.fleet.powerOff('a')
    const state = join(fleet.fleet.device('a').directory, 'persist/backup/repository')
    for (const file of [state, `${state}.prev`]) agePrune(file)
    fleet.fleet.start('a')
    await fleet.until('a', 'up', () => true)
    await fleet.backUp('a', 'nav')
    const { head } = await fleet.backups('a')
    expect(head?.bytes).toBeLessThan(3_000_000)
    const before = packsOf('c')
    fleet.fleet.start('c')
    const alarm = await untilEvent('c', 'backup-shrunk')
    expect(String(alarm.fields['why'])).toMatch(/drops (9\d|100) %/)
    expect(packsOf('c')).toEqual(expect.arrayContaining(before))
    await untilEvent('c', 'replica-dropped')
    expect(packsOf('c').filter((path) => before.includes(path)).length).toBeLessThan(before.length / 2)
    await fleet.untilCopied('a', 2)
  })

  it('are given back when their holder is needed no more', async () => {
    // It offers so much more than the others that it comes first.
    await fleet.add('g', undefined, { labels: { site: 'shed' }, backups: { offerMiB: 4_000_000 } })
    fleet.fleet.start('g')
    await fleet.until('g', 'holding', ({ replicas }) => replicas[0]?.percent === 100, 120_000)
    const back = await Promise.any(['c', 'e'].map((name) => untilEvent(name, 'replica-returned').then(() => name)))
    expect(fleet.holds(back)).toEqual([])
    await fleet.untilCopied('a', [back === 'c' ? 'e' : 'c', 'g'])
  })

  it('are on nobody when everybody is cut off, which the owner says, and come back', async () => {
    for (const name of ['c', 'e', 'g', 'full']) await fleet.fleet.powerOff(name)
    inside('echo alone > /maps/alone')
    await fleet.backUp('a', 'nav')
    const { notes } = await fleet.until('a', 'alone', (view) =>
      view.notes.some((note) => note.startsWith('0 of 2 copies')),
    )
    expect(notes.join()).toContain('0 of 2 copies are whole and in reach')
    for (const name of ['c', 'e', 'g']) fleet.fleet.start(name)
    await fleet.untilCopied('a', 2)
  })
})

/** Lets a device believe that it pruned long ago: its state is a line with its hash, and JSON. */
function agePrune(path: string): void {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch {
    return // no second generation yet
  }
  const json = JSON.parse(text.slice(65)) as { prunedMs: number }
  const content = JSON.stringify({ ...json, prunedMs: 0 })
  const hash = createHash('sha256').update(content).digest('hex')
  writeFileSync(path, `${hash}\n${content}`)
}
