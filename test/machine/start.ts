import { buildImages } from '../fleet/build-images.ts'
import { canUseNamespaces } from '../fleet/network.ts'
import { MACHINE_FAMILIES } from './virtual-board.ts'
import { eventsIn, VirtualFleet } from './virtual-fleet.ts'

/**
 * `npm run start:machines [FAMILY]`: three virtual machines with real firmware and a real loader on one network. They start
 * release 1 from disks that the builder made; one is seeded with release 2, and all of them reboot into it.
 */
const startedMs = performance.now()
const say = (text: string) =>
  process.stderr.write(`[${((performance.now() - startedMs) / 1_000).toFixed(0).padStart(3)} s] ${text}\n`)
const NAMES = ['arm-1', 'arm-2', 'arm-3']
const PATIENCE_MS = 900_000

const wanted = process.argv[2] ?? 'systemd-boot'
const family = MACHINE_FAMILIES.find((known) => known === wanted)
if (family === undefined) {
  process.stderr.write(`start:machines: no such family: ${wanted} (${MACHINE_FAMILIES.join(', ')})\n`)
  process.exit(2)
}
if (!canUseNamespaces()) {
  process.stderr.write(
    'start:machines: virtual machines share a network of their own, which only root can make; run it as root\n',
  )
  process.exit(1)
}
say('programs: the agent and the operator’s command')
await buildImages((line) => process.stderr.write(`  ${line}\n`))
const fleet = new VirtualFleet(family)
const stop = (code: number) => {
  void fleet.close().finally(() => process.exit(code))
}
process.on('SIGINT', () => stop(130))
process.on('SIGTERM', () => stop(143))
try {
  say(`operator: flotilla fleet init; flotilla release create (release 1 for virtual-${family})`)
  await fleet.init()
  const first = await fleet.release({ version: '1.0' })
  say('operator: flotilla device create --for-image, and a disk image, for each of three devices')
  for (const name of NAMES) await fleet.addDevice(name, first)
  const next = await fleet.release({ version: '2.0', payloadMiB: 8 })
  say(`power on: ${NAMES.join(', ')} (QEMU without KVM: a boot takes half a minute)`)
  for (const name of NAMES) fleet.start(name)
  for (const name of NAMES) await fleet.device(name).machine?.waitFor(/"event":"started"/, PATIENCE_MS)
  for (const name of NAMES) {
    const [slot] = /flotilla-init: slot \w+ from \S+/.exec(fleet.device(name).machine?.console ?? '') ?? []
    say(`${name}: ${slot ?? 'started'}`)
  }
  const { address } = fleet.device(NAMES[0] ?? '')
  say(`operator: flotilla seed ${address} virtual-${family}@2.0`)
  const seeded = fleet.flotilla('seed', address, next, '--timeout', String(PATIENCE_MS / 1_000))
  void seeded.catch(() => {}) // told below, unless it was interrupted
  await Promise.all(
    NAMES.map(async (name) => {
      for (const event of ['fetched', 'armed', 'trial', 'proven']) {
        await fleet.untilTold(name, event, next, PATIENCE_MS)
        say(`${name}: ${event}`)
      }
    }),
  )
  await seeded
  process.stdout.write(await fleet.flotilla('fleet', '--via', address))
  for (const name of NAMES) {
    const { console } = fleet.device(name).machine ?? { console: '' }
    const boots = [...console.matchAll(/^release (\S+) in /gm)].map(([, version]) => version)
    process.stdout.write(
      `${name} started ${boots.join(', then ')}; ${eventsIn(console).length} events on its console\n`,
    )
  }
  say('done: one machine was seeded, all three rebooted into release 2 and proved it')
  stop(0)
} catch (error) {
  process.stderr.write(`start:machines failed: ${error instanceof Error ? error.message : String(error)}\n`)
  stop(1)
}
