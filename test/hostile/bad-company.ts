import { execFileSync } from 'node:child_process'
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { ImageSet } from '../fleet/build-images.ts'
import { publishNoise, untilHolds } from '../fleet/carried-release.ts'
import { namespaceNetwork } from '../fleet/network.ts'
import { SimulatedFleet } from '../fleet/simulated-fleet.ts'
import type { Attack } from './attack.ts'

const DEVICES = ['d1', 'd2', 'd3', 'd4']
const PAYLOAD_BYTES = 16_000_000
const RATE_MBIT = 100
/** A flood is watched for so long after the transfer, so that its cost shows. */
const REFUSED_WITHIN_MS = 30_000

/** What one round cost the four devices, with an offender among them or (`base`) without. */
export type Round = {
  /** Seconds from the seeding on, until the last device holds the release. */
  readonly finishSeconds: number
  /** Processor seconds of all devices, per second of the round. */
  readonly cores: number
  /** The highest resident memory of any device above what it had before, MiB. */
  readonly grownMiB: number
  /** What the offender sent, MB. */
  readonly sentMB: number
  /** Hostile acts done. */
  readonly acts: number
  /** True when a device refused it as the attack's entry says, or there is nothing to refuse. */
  readonly refused: boolean
}

/** Four devices on links of 100 Mbit/s that carry a new release in every round, while an offender does its worst. */
export class BadCompany {
  readonly #fleet: SimulatedFleet
  readonly #images: ImageSet
  /** Ids of the honest devices. */
  readonly #honest = new Set<string>()
  #round = 0

  private constructor(fleet: SimulatedFleet, images: ImageSet) {
    this.#fleet = fleet
    this.#images = images
  }

  static async start(images: ImageSet): Promise<BadCompany> {
    const fleet = new SimulatedFleet(namespaceNetwork(RATE_MBIT), images)
    await fleet.init()
    await fleet.release('odroid-xu', '1', images.r1)
    for (const name of DEVICES) await fleet.addDevice(name, 'odroid-xu', 'odroid-xu@1')
    const company = new BadCompany(fleet, images)
    await company.#publish()
    cpSync(join(fleet.repository, 'metadata'), join(`${fleet.repository}-old`, 'metadata'), { recursive: true })
    cpSync(join(fleet.repository, 'blobs'), join(`${fleet.repository}-old`, 'blobs'), { recursive: true })
    cpSync(join(fleet.repository, 'fleet.json'), join(`${fleet.repository}-old`, 'fleet.json'))
    await fleet.startAll()
    for (const name of DEVICES)
      company.#honest.add(((await fleet.ask(name, '/status')) as { readonly device: string }).device)
    return company
  }

  async close(): Promise<void> {
    await this.#fleet.close()
  }

  /** Spreads a new release with the offender there from before the seeding until it was refused. */
  async round(attack: Attack | undefined): Promise<Round> {
    const id = await this.#publish()
    const seen = new Map<string, number>()
    for (const name of DEVICES) seen.set(name, (await this.#fleet.events(name)).at(-1)?.seq ?? 0)
    const before = await this.#meters()
    const startedMs = performance.now()
    const offender = attack === undefined ? undefined : await this.#mount(attack)
    try {
      const seededMs = performance.now()
      const laptop = await this.#fleet.startFlotilla(['seed', 'd1', `pi-4@${this.#round}`, '--until', 'first'])
      for (const name of DEVICES) await untilHolds(this.#fleet, name, id)
      const finishSeconds = (performance.now() - seededMs) / 1_000
      await this.#fleet.end(laptop)
      const refused = attack === undefined || (await this.#wasRefused(attack, seen))
      await this.#requirePeace(attack, seen)
      const seconds = (performance.now() - startedMs) / 1_000
      const after = await this.#meters()
      // An agent that was taken down is started again by its loader, and must not go unseen.
      const restarted = DEVICES.filter((_, at) => before[at]?.pid !== after[at]?.pid)
      if (restarted.length > 0)
        throw new Error(`${restarted.join(', ')} was restarted\n${this.#fleet.logTail(restarted[0] ?? '')}`)
      const cost = DEVICES.map((_, at) => (after[at]?.cpu ?? 0) - (before[at]?.cpu ?? 0)).reduce((a, b) => a + b, 0)
      const grown = DEVICES.map((_, at) => (after[at]?.peakMiB ?? 0) - (before[at]?.residentMiB ?? 0))
      const sentMB = offender === undefined ? 0 : this.#sentMB(offender.host)
      const acts = offender === undefined ? 0 : this.#acts(offender.host)
      return { finishSeconds, cores: cost / seconds, grownMiB: Math.max(...grown), sentMB, acts, refused }
    } finally {
      if (offender !== undefined) await this.#fleet.end(offender.child)
    }
  }

  #publish(): Promise<string> {
    this.#round += 1
    return publishNoise(this.#fleet, this.#images, this.#round, PAYLOAD_BYTES)
  }

  async #mount(attack: Attack) {
    const host = `offender-${this.#round}`
    const addresses = DEVICES.map((name) => `/ip4/${this.#fleet.device(name).host.address}/tcp/4848`)
    const child = await this.#fleet.startProgram(host, [
      process.execPath,
      '--no-warnings',
      join(import.meta.dirname, 'attacker.ts'),
      attack.name,
      this.#fleet.repository,
      this.#fleet.device('d1').directory,
      ...addresses,
    ])
    // It has joined, or has begun.
    const deadline = performance.now() + 20_000
    while (performance.now() < deadline && this.#acts(host) === 0) {
      const { peers } = await this.#fleet.status('d2')
      if (peers >= DEVICES.length) break
      await pause(100)
    }
    return { host, child }
  }

  #acts(host: string): number {
    const lines = readFileSync(join(this.#fleet.directory, `${host}.log`), 'utf8').matchAll(/^acts (\d+)$/gm)
    return Number([...lines].at(-1)?.[1] ?? 0)
  }

  /** The end of what the offender's program printed. */
  logOf(attack: Attack): string {
    return `${attack.name}\n${this.#fleet.logTail(`offender-${this.#round}`)}\n${this.#fleet.logTail('d2')}`
  }

  #sentMB(host: string): number {
    const [command = '', ...args] = this.#fleet.network.wrapFor(host, [
      'cat',
      '/sys/class/net/eth0/statistics/tx_bytes',
    ])
    return Number(execFileSync(command, args, { encoding: 'utf8' })) / 1e6
  }

  async #wasRefused(attack: Attack, seen: ReadonlyMap<string, number>): Promise<boolean> {
    const { refused } = attack
    if (refused === undefined) return true
    const deadline = performance.now() + REFUSED_WITHIN_MS
    while (performance.now() < deadline) {
      for (const name of DEVICES) {
        const events = await this.#fleet.events(name)
        const isNew = events.filter((event) => event.seq > (seen.get(name) ?? 0))
        // Of somebody else than an honest device; a copied key is one's.
        const isMeant = ({ event, fields }: (typeof events)[number]) =>
          event === refused.event &&
          fields['code'] === refused.code &&
          (attack.name === 'cloned-key' || !this.#honest.has(String(fields['peer'])))
        if (isNew.some(isMeant)) return true
      }
      await pause(100)
    }
    return false
  }

  /** What an offender does must not set honest devices against each other. */
  async #requirePeace(attack: Attack | undefined, seen: ReadonlyMap<string, number>): Promise<void> {
    if (attack?.name === 'cloned-key') return
    for (const name of DEVICES) {
      const events = (await this.#fleet.events(name)).filter((event) => event.seq > (seen.get(name) ?? 0))
      const wrong = events.find(
        ({ event, fields }) => event === 'peer-refused' && this.#honest.has(String(fields['peer'])),
      )
      if (wrong !== undefined) throw new Error(`${name} refused an honest device: ${JSON.stringify(wrong.fields)}`)
    }
  }

  /** Processor time and memory of each device's agent; the peak counts from here on. */
  async #meters(): Promise<readonly { pid: number; cpu: number; peakMiB: number; residentMiB: number }[]> {
    const pids = await Promise.all(DEVICES.map(async (name) => (await this.#fleet.status(name)).pid))
    return pids.map((pid) => {
      const status = readFileSync(`/proc/${pid}/status`, 'latin1')
      const mib = (field: string) => Number(new RegExp(`${field}:\\s+(\\d+)`).exec(status)?.[1] ?? 0) / 1024
      const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]?.split(' ') ?? []
      writeFileSync(`/proc/${pid}/clear_refs`, '5')
      return {
        pid,
        cpu: (Number(fields[11]) + Number(fields[12])) / 100,
        peakMiB: mib('VmHWM'),
        residentMiB: mib('VmRSS'),
      }
    })
  }
}
