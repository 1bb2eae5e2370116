import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { promisify } from 'node:util'
import { stringify } from 'yaml'
import type { BackupsView } from '../../agent/backup/open-backups.ts'
import type { Job } from '../../agent/backup/job-list.ts'
import type { EngineRig } from '../core/engine-rig.ts'
import { smallImageSet } from '../fleet/build-images.ts'
import { namespaceNetwork } from '../fleet/network.ts'
import { SimulatedFleet } from '../fleet/simulated-fleet.ts'

/** Impatient enough for a test: what takes days in the field takes seconds here. */
export const QUICK = {
  absentSeconds: 8,
  repairSeconds: 30,
  deleteSeconds: 10,
  surplusSeconds: 5,
  scrubSeconds: 86_400,
  proofSeconds: 3,
}

/** Devices of a simulated fleet whose backups go to each other; those with an engine run containers. */
export class BackupFleet {
  readonly fleet: SimulatedFleet
  readonly #images = smallImageSet()

  constructor(rateMbit = 1_000) {
    this.fleet = new SimulatedFleet(namespaceNetwork(rateMbit), this.#images)
  }

  async init(): Promise<void> {
    await this.fleet.init()
    await this.fleet.release('pi-4', '1', this.#images.r1)
  }

  async add(name: string, engine?: EngineRig, settings: Readonly<Record<string, unknown>> = {}): Promise<void> {
    const { backups = {}, ...rest } = settings as { backups?: object }
    await this.fleet.addDevice(name, 'pi-4', 'pi-4@1', {
      ...(engine === undefined ? {} : { engineSocket: engine.socket }),
      backups: { ...QUICK, ...backups },
      ...rest,
    })
  }

  skiff(name: string): string {
    return join(this.fleet.device(name).directory, 'skiff')
  }

  writeCore(name: string, core: unknown): void {
    this.writeCoreText(name, stringify(core))
  }

  writeCoreText(name: string, text: string): void {
    const directory = join(this.skiff(name), 'core')
    mkdirSync(directory, { recursive: true })
    writeFileSync(join(directory, 'skiff-core.yaml'), text)
  }

  async backups(name: string): Promise<BackupsView> {
    return (await this.fleet.ask(name, '/backup')) as BackupsView
  }

  /** Waits until the backups of a device stand as asked. */
  async until(
    name: string,
    what: string,
    isSo: (view: BackupsView) => boolean,
    timeoutMs = 90_000,
  ): Promise<BackupsView> {
    let view: BackupsView | undefined
    for (const deadline = performance.now() + timeoutMs; performance.now() < deadline; await pause(150)) {
      view = await this.backups(name).catch(() => undefined)
      if (view !== undefined && isSo(view)) return view
    }
    const events = (await this.fleet.events(name).catch(() => [])).slice(-25)
    throw new Error(
      `${name}: not ${what} within ${timeoutMs / 1_000} s\n${JSON.stringify(view, null, 1)}\n${events.map((event) => JSON.stringify(event)).join('\n')}\n${this.fleet.logTail(name)}`,
    )
  }

  /** Waits until so many holders, or just these, have all of the newest backup. @returns their names, sorted */
  async untilCopied(name: string, holders: number | readonly string[], timeoutMs?: number): Promise<readonly string[]> {
    const whole = ({ copies }: BackupsView) =>
      copies
        .filter(({ percent, note }) => percent === 100 && note === '')
        .map(({ name: holder }) => holder)
        .sort()
    const isSo = (view: BackupsView) =>
      typeof holders === 'number' ? whole(view).length >= holders : whole(view).join() === [...holders].sort().join()
    return whole(await this.until(name, `copied to ${String(holders)}`, isSo, timeoutMs))
  }

  /** @throws when it fails */
  async backUp(name: string, container: string): Promise<Job> {
    const [job] = (await this.fleet.ask(name, '/backup/now', 'POST', { container })) as readonly Job[]
    for (;;) {
      const now = (await this.fleet.ask(name, '/backup/job', 'POST', { id: job?.id })) as Job
      if (now.state === 'done') return now
      if (now.state === 'failed') throw new Error(`backup of ${container} on ${name}: ${now.code} ${now.result}`)
      await pause(100)
    }
  }

  /** Runs `flotilla` on a device. */
  async run(name: string, args: readonly string[]): Promise<string> {
    const main = join(import.meta.dirname, '../../agent/main.ts')
    const socket = join(this.fleet.device(name).directory, 'run/agent.sock')
    const { stdout } = await promisify(execFile)(process.execPath, [main, ...args, '--socket', socket])
    return stdout
  }

  /** The device and everything on it is gone. */
  async destroy(name: string): Promise<void> {
    await this.fleet.powerOff(name)
    rmSync(this.fleet.device(name).directory, { recursive: true, force: true })
  }

  /** Where a holder keeps its replica of another's repository. */
  replica(holder: string, repository: string): string {
    return join(this.skiff(holder), 'backups/replicas', repository)
  }

  holds(holder: string): readonly string[] {
    const directory = join(this.skiff(holder), 'backups/replicas')
    return existsSync(directory) ? readdirSync(directory).filter((entry) => !entry.endsWith('.flotilla')) : []
  }

  close(): Promise<void> {
    return this.fleet.close()
  }
}
