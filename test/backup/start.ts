import { execFileSync } from 'node:child_process'
import { buildImages } from '../fleet/build-images.ts'
import { EngineRig } from '../core/engine-rig.ts'
import { BackupFleet } from './backup-fleet.ts'

/**
 * `npm run start:backups`: five devices on this machine. The container of one is backed up and copied to three others; then that device
 * and one holder are lost, and another device takes its containers over.
 */
const say = (text: string) => process.stderr.write(`${text}\n`)
if (process.getuid?.() !== 0) {
  say('start:backups: dockerd and network namespaces need root; run it as root')
  process.exit(6)
}
await buildImages(() => {})
const engines = { robot3: new EngineRig(), robot9: new EngineRig() }
const fleet = new BackupFleet()
let isClosing: Promise<void> | undefined
const close = () =>
  (isClosing ??= fleet.close().then(async () => {
    for (const engine of Object.values(engines)) await engine.close()
  }))
const stop = (code: number) => void close().finally(() => process.exit(code))
process.on('SIGINT', () => stop(130))
process.on('SIGTERM', () => stop(143))

const POLICY = `containers:
  nav:
    image: nav:1
    entrypoint: [/bin/sleep, 1d]
    startAfterCreate: true
    mounts: ["maps:/maps"]
    backup: {schedule: every 6h, copies: 3}
`
const inside = (engine: EngineRig, script: string) =>
  execFileSync('docker', ['-H', `unix://${engine.socket}`, 'exec', 'nav', '/bin/sh', '-c', script]).toString()
const show = async (device: string, ...args: string[]) =>
  say(`${device}$ flotilla ${args.join(' ')}\n${await fleet.run(device, args)}`)

try {
  say('a fleet with a recovery key, five devices, two of them with a Docker Engine')
  await fleet.init()
  await Promise.all(Object.values(engines).map((engine) => engine.start()))
  await engines.robot3.busybox('nav:1')
  await fleet.add('robot-3', engines.robot3)
  for (const name of ['robot-5', 'robot-6', 'robot-7']) await fleet.add(name)
  await fleet.add('robot-9', engines.robot9, { backups: { offerMiB: 0 } })
  say(`skiff-core.yaml of robot-3:\n${POLICY}`)
  fleet.writeCoreText('robot-3', POLICY)
  await fleet.fleet.startAll()
  await fleet.until(
    'robot-3',
    'backed up on its own',
    ({ containers }) => (containers[0]?.ageSeconds ?? -1) >= 0,
    120_000,
  )
  inside(engines.robot3, 'echo "the map of the hall" > /maps/hall; echo tuned > /etc/tuned')
  await show('robot-3', 'backup', 'now', 'nav')
  await fleet.untilCopied('robot-3', 3, 120_000)
  await show('robot-3', 'backup', 'status')
  await show('robot-5', 'fleet')
  say('robot-3 is lost, and robot-5 with its copy')
  await fleet.destroy('robot-3')
  await fleet.destroy('robot-5')
  const { address, port } = fleet.fleet.device('robot-6').host
  say(`workstation$ flotilla backup adopt robot-3 --to robot-9 --via ${address}:${port}`)
  const { stderr } = await fleet.fleet.flotilla([
    'backup',
    'adopt',
    'robot-3',
    '--to',
    'robot-9',
    '--via',
    `${address}:${port}`,
  ])
  say(stderr)
  await fleet.until('robot-9', 'taken over', ({ notes }) => notes.some((note) => note.startsWith('took over')), 300_000)
  await show('robot-9', 'backup', 'status')
  await show('robot-9', 'core', 'status')
  say(`in the container of robot-9: ${inside(engines.robot9, 'cat /maps/hall /etc/tuned').replaceAll('\n', ', ')}`)
  stop(0)
} catch (error) {
  say(error instanceof Error ? error.message : String(error))
  stop(1)
}
