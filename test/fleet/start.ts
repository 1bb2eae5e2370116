import { buildImages } from './build-images.ts'
import { canUseNamespaces, loopbackNetwork, namespaceNetwork } from './network.ts'
import { SimulatedFleet } from './simulated-fleet.ts'

/**
 * `npm start`: the main job on this machine. Five devices of two boards boot from release 1; release 2 is signed and
 * handed to one of them; the rest get it from each other.
 */
const startedMs = performance.now()
const say = (text: string) =>
  process.stderr.write(`\n[${((performance.now() - startedMs) / 1_000).toFixed(0).padStart(3)} s] ${text}\n`)

const namespaces = canUseNamespaces()
say('images: a Debian kernel, its modules and a root file system with the agent inside')
const images = await buildImages((line) => process.stderr.write(`  ${line}\n`))
const network = namespaces ? namespaceNetwork(100) : loopbackNetwork()
if (!namespaces) {
  say(
    'without root: the same fleet on loopback, unshaped, found by static addresses. As root it runs in namespaces with mDNS.',
  )
}
const fleet = new SimulatedFleet(network, images)
const stop = (code: number) => {
  void fleet.close().finally(() => process.exit(code))
}
process.on('SIGINT', () => stop(130))
process.on('SIGTERM', () => stop(143))
try {
  say('operator: flotilla fleet init --name demo --dev')
  await fleet.init()
  say('operator: flotilla release create (version 1, for pi-4 and odroid-xu)')
  await fleet.release('pi-4', '1', images.r1)
  await fleet.release('odroid-xu', '1', images.r1)
  for (const name of ['arm-1', 'arm-2', 'arm-3']) await fleet.addDevice(name, 'pi-4', 'pi-4@1')
  for (const name of ['cart-1', 'cart-2']) await fleet.addDevice(name, 'odroid-xu', 'odroid-xu@1')
  const names = [...fleet.devices.keys()]
  say(
    `power on: ${names.join(', ')}${namespaces ? ', each in a network namespace, links of 100 Mbit/s, no way out' : ''}`,
  )
  for (const name of names) fleet.start(name)
  for (const name of names) await fleet.until(name, 'meshed', (status) => status.peers === names.length - 1)
  say('all have found each other')
  say('operator: flotilla release create (version 2, for pi-4: one package more)')
  await fleet.release('pi-4', '2', images.r2)
  const diff = await fleet.flotilla(['release', 'diff', 'pi-4@1', 'pi-4@2'])
  process.stderr.write(diff.stdout)
  const target = namespaces ? 'arm-1' : `127.0.0.1:${fleet.device('arm-1').host.port}`
  say(`operator: flotilla seed ${target} pi-4@2`)
  const seeding = await fleet.startFlotilla(['seed', target, 'pi-4@2', '--timeout', '150'], 'inherit')
  const code = await new Promise<number>((resolve) => seeding.once('exit', (exit) => resolve(exit ?? 1)))
  if (code !== 0) throw new Error(`flotilla seed ended with ${code}`)
  say(`any device shows the whole fleet; asking cart-2 (flotilla fleet --via ${namespaces ? 'cart-2' : 'its address'})`)
  const via = namespaces ? 'cart-2' : `127.0.0.1:${fleet.device('cart-2').host.port}`
  process.stdout.write((await fleet.flotilla(['fleet', '--via', via])).stdout)
  for (const name of names) {
    const status = await fleet.status(name)
    const carried = (
      (await fleet.ask(name, '/releases')) as { where: string; board: string; version: string; percent: number }[]
    ).filter((release) => release.where === 'carried' && release.percent === 100)
    process.stdout.write(
      `${name.padEnd(7)} runs ${status.running?.version}, carries ${carried.map((release) => `${release.board}@${release.version}`).join(', ') || 'nothing'}\n`,
    )
  }
  say('done: one device was seeded, the whole fleet upgraded itself')
  stop(0)
} catch (error) {
  process.stderr.write(`npm start failed: ${error instanceof Error ? error.message : String(error)}\n`)
  stop(1)
}
