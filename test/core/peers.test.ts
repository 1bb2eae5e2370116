import { execFile } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { CoreStatus } from '../../agent/core/reconciler.ts'
import { smallImageSet } from '../fleet/build-images.ts'
import { namespaceNetwork } from '../fleet/network.ts'
import { SimulatedFleet } from '../fleet/simulated-fleet.ts'
import { EngineRig } from './engine-rig.ts'

const CORE = `containers:
  nav:
    image: nav:1
    entrypoint: [/bin/sleep, 1d]
    stopTimeoutSeconds: 0
    startAfterCreate: true
images:
  nav:1: {pull: {policy: never}}
`

/** Two devices with an engine each and no way out: one gets the image with its release, the other has only a file that names it. */
describe('images without a network', () => {
  const images = smallImageSet()
  const workstation = new EngineRig()
  const engines = { first: new EngineRig(), second: new EngineRig() }
  let fleet: SimulatedFleet

  beforeAll(async () => {
    fleet = new SimulatedFleet(namespaceNetwork(100), images)
    await fleet.init()
    await Promise.all([workstation, engines.first, engines.second].map((engine) => engine.start()))
    await workstation.busybox('nav:1', { 'etc/nav': 'one' })
    await fleet.release('pi-4', '1', images.r1)
    await fleet.release('odroid-xu', '1', images.r1)
    await fleet.addDevice('first', 'pi-4', 'pi-4@1', { engineSocket: engines.first.socket })
    // No courier's room: what it has of the other board it has for itself.
    await fleet.addDevice('second', 'odroid-xu', 'odroid-xu@1', { engineSocket: engines.second.socket, carryMiB: 0 })
    const own = join(fleet.device('second').directory, 'skiff/core')
    mkdirSync(own, { recursive: true })
    writeFileSync(join(own, 'skiff-core.yaml'), CORE)
    await fleet.startAll()
  })
  afterAll(async () => {
    await fleet.close()
    for (const engine of [workstation, engines.first, engines.second]) await engine.close()
  })

  const coreOf = async (name: string) => (await fleet.ask(name, '/core')) as CoreStatus
  async function untilRuns(name: string): Promise<void> {
    let status: CoreStatus | undefined
    for (const deadline = performance.now() + 90_000; performance.now() < deadline; await pause(200)) {
      status = await coreOf(name).catch(() => undefined)
      const [nav] = status?.containers ?? []
      if (nav?.state === 'as-wanted' && nav.docker === 'running') return
    }
    throw new Error(`${name}: ${JSON.stringify(status)}\n${fleet.logTail(name)}`)
  }

  /** A release with the image as the workstation has it now. @returns what `containers add` said */
  async function publish(version: string): Promise<string> {
    const made = join(fleet.directory, 'made')
    if (!existsSync(made)) cpSync(images.r1, made, { recursive: true })
    writeFileSync(join(made, 'skiff-core.yaml'), CORE)
    process.env['DOCKER_HOST'] = `unix://${workstation.socket}`
    const { stdout } = await fleet.flotilla(['containers', 'add', 'nav:1', '--images', made])
    delete process.env['DOCKER_HOST']
    await fleet.release('pi-4', version, made)
    return stdout
  }

  it('come with the release, and from a peer that has them for another board, and run', async () => {
    const waiting = await coreOf('second')
    expect(waiting.containers[0]).toMatchObject({ state: 'waiting', docker: 'absent' })
    const stdout = await publish('2')
    expect(stdout).toMatch(/^nav:1 for amd64, .* a device fetches/)
    await fleet.flotilla(['seed', 'first', 'pi-4@2', '--timeout', '120'])
    await fleet.untilRunning('first', '2')
    await untilRuns('first')
    await fleet.ask('second', '/core/retry', 'POST', { container: 'nav' })
    await untilRuns('second')
    for (const engine of Object.values(engines)) {
      const { Image } = await engine.docker.getContainer('nav').inspect()
      expect(Image).toBe((await workstation.docker.getImage('nav:1').inspect()).Id)
    }
    const told = (await fleet.events('second')).find(({ event }) => event === 'image')
    expect(told?.fields).toMatchObject({ image: 'nav:1', from: 'peers' })
    expect((await fleet.status('second')).running?.version).toBe('1')
  })

  it('are shown by `flotilla core status` and `plan`, which does nothing', async () => {
    const core = async (command: string, ...rest: string[]) => {
      const socket = join(fleet.device('second').directory, 'run/agent.sock')
      const args = [join(import.meta.dirname, '../../agent/main.ts'), 'core', command, '--socket', socket, ...rest]
      return (await promisify(execFile)(process.execPath, args)).stdout
    }
    expect(await core('status')).toMatch(/^CONTAINER +STATE +DOCKER +IMAGE +NOTE\nnav +as-wanted +running +nav:1\n$/)
    await core('hold', 'nav', 'busy')
    const file = join(fleet.device('second').directory, 'skiff/core/skiff-core.yaml')
    writeFileSync(file, CORE.replace('startAfterCreate', 'tty: true\n    startAfterCreate'))
    expect(await core('plan')).toMatch(/nav +held +running +nav:1 +its definition changed; held: busy/)
    await core('hold', 'nav', '--release')
    await untilRuns('second')
    expect(JSON.parse(await core('plan', '--json'))).toMatchObject({ containers: [{ name: 'nav', steps: [] }] })
  })

  it('change with the release, and go when no release on the device has them any more', async () => {
    const before = (await workstation.docker.getImage('nav:1').inspect()).Id
    for (const version of ['3', '4']) {
      await workstation.busybox('nav:1', { 'etc/nav': version })
      await publish(version)
      await fleet.flotilla(['seed', 'first', `pi-4@${version}`, '--until', 'first', '--timeout', '120'])
      await fleet.untilRunning('first', version)
      await untilRuns('first')
      const { Id } = await workstation.docker.getImage('nav:1').inspect()
      expect((await engines.first.docker.getContainer('nav').inspect()).Image).toBe(Id)
    }
    // Release 3 is what the device may go back to; release 2 is gone, with its archive and its image.
    const kept = async () => (await engines.first.docker.listImages({ all: true })).map(({ Id }) => Id)
    for (let n = 0; n < 300 && (await kept()).includes(before); n += 1) await pause(100)
    expect(await kept()).toHaveLength(2)
    const archives = readdirSync(join(fleet.device('first').directory, 'persist/artifacts'))
    expect(archives).toHaveLength(3) // two images and the one skiff-core.yaml
  })
})
