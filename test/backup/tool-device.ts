import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect } from 'vitest'
import { EngineReader } from '../../agent/backup/engine-reader.ts'
import type { Job } from '../../agent/backup/job-list.ts'
import type { BackupHead } from '../../protocol/backup/backup-head.ts'
import { EngineRig } from '../core/engine-rig.ts'
import { BackupRig } from './backup-rig.ts'
import { describeTree } from './describe-tree.ts'

export const POLICY = { keep: { last: 9 } }

/** A device with one container `tool`, whose volume has two files; made anew for every test. */
export class ToolDevice {
  readonly engine = new EngineRig()
  #rig: BackupRig | undefined
  #volume = ''

  get rig(): BackupRig {
    if (this.#rig === undefined) throw new Error('not started')
    return this.#rig
  }

  get volume(): string {
    return this.#volume
  }

  async start(): Promise<void> {
    this.#rig = new BackupRig(this.engine)
    this.write(POLICY)
    await this.rig.start()
    await this.rig.core.untilSettled('tool')
    const { mounts } = await (await EngineReader.open(this.engine.socket)).container('tool')
    this.#volume = mounts.find(({ target }) => target === '/data')?.path ?? ''
    this.inside('rm -rf /data/* && echo one > /data/file && head -c 200000 /dev/urandom > /data/noise')
  }

  async stop(): Promise<void> {
    await this.rig.stop()
    const { docker } = this.engine
    for (const { id } of await this.rig.core.all()) await docker.getContainer(id).remove({ force: true, v: true })
    await docker.getVolume('toolData').remove()
  }

  /** @param more - other keys of the container */
  write(backup: object, more: object = {}): void {
    const tool = { image: 'tool:1', entrypoint: ['/bin/sleep', '1d'], startAfterCreate: true, stopTimeoutSeconds: 0 }
    this.rig.core.write({ containers: { tool: { ...tool, mounts: ['toolData:/data'], backup, ...more } } })
  }

  inside(script: string): Buffer {
    const command = ['-H', `unix://${this.engine.socket}`, 'exec', 'tool', '/bin/sh', '-c', script]
    return execFileSync('docker', command, { stdio: 'pipe' })
  }

  files(): readonly string[] {
    return describeTree(this.#volume)
  }

  async state() {
    return (await this.rig.core.inspect('tool')).State
  }

  head(): BackupHead | undefined {
    return this.rig.keeper.head()
  }

  events(name: string) {
    return this.rig.core.log.since(0).filter(({ event }) => event === name)
  }

  packs(): readonly string[] {
    const data = join(this.rig.backups, 'repository/data')
    return readdirSync(data).flatMap((at) => readdirSync(join(data, at)).map((name) => join(data, at, name)))
  }

  /** Begins a backup. */
  async begin(): Promise<Job> {
    const [job] = await this.rig.keeper.backUpNow('tool')
    if (job === undefined) throw new Error('no job')
    return job
  }

  /** Makes a backup that must fail. */
  async failed(): Promise<Job> {
    const ended = await this.rig.ended(await this.begin())
    expect(ended.state).toBe('failed')
    return ended
  }
}

export function useToolDevice(): ToolDevice {
  const device = new ToolDevice()
  beforeAll(async () => {
    await device.engine.start()
    await device.engine.busybox('tool:1')
  })
  afterAll(() => device.engine.close())
  beforeEach(async () => {
    await device.start()
    return () => device.stop()
  })
  return device
}
