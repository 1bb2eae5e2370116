// A fleet of nodes in one process, each with its own key, sockets and record: what a device hears and says when nothing
// happens, and how long news takes. `quiet-fleet REPOSITORY PERSIST COUNT SECONDS`, in a network namespace of its own, whose
// loopback carries nothing else. Prints one line of JSON.
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { OwnRecord } from '../../agent/control/own-record.ts'
import { EventLog } from '../../agent/control/event-log.ts'
import { FleetSync } from '../../agent/fleet-sync.ts'
import { MemoryDisk } from '../../agent/store/memory-disk.ts'
import { NodeDisk } from '../../agent/store/node-disk.ts'
import { TrustKeeper } from '../../agent/store/trust-keeper.ts'
import { TrustStore } from '../../agent/store/trust-store.ts'
import { enrol } from '../../builder/release/create-device.ts'
import { listKeys, openKey } from '../../builder/release/key-file.ts'
import { Repository } from '../../builder/release/repository.ts'
import { BLANK_RECORD } from '../../protocol/gossip/blank-record.ts'
import { FleetNode } from '../../protocol/network/fleet-node.ts'
import { identityFromSeed } from '../../protocol/network/identity.ts'

const [path = '', persist = '', countText = '0', secondsText = '0'] = process.argv.slice(2)
const count = Number(countText)
const watchSeconds = Number(secondsText)
const repository = Repository.open(path)
const caFile = listKeys(repository.keysDirectory()).find((key) => key.purpose === 'ca')?.path ?? ''
const ca = openKey(caFile, process.env['FLOTILLA_PASSPHRASE'] ?? '')
const quiet = new EventLog(`${persist}/log`, () => {})

type Unit = {
  readonly node: FleetNode
  readonly sync: FleetSync
  readonly own: OwnRecord
  readonly say: (text: string) => void
}

/** @param known - address of a node that is there already: the others are found through it, since loopback has no multicast */
async function startUnit(
  at: number,
  known: { readonly id: string; readonly address: string } | undefined,
): Promise<Unit> {
  const seed = randomBytes(32)
  const identity = identityFromSeed(seed)
  const device = { name: `unit-${at}`, board: 'pi-4', capabilities: ['sync', 'serve'] as const }
  const { certificate } = enrol(repository, ca, device, seed)
  const store = new TrustStore(new NodeDisk(persist))
  const trust = new TrustKeeper(store, await store.load(), repository.fleet)
  const sync = new FleetSync(trust, quiet, () => {})
  const node = await FleetNode.start({
    identity,
    certificate,
    name: device.name,
    fleet: repository.fleet,
    policy: () => trust.policy,
    trust: () => trust.versions,
    refreshTrust: () => Promise.resolve(),
    port: 0,
    listenHosts: ['127.0.0.1'],
    interfaces: [],
    discovery: false,
    staticPeers: [],
    remembered: known === undefined ? [] : [{ id: known.id, addresses: [known.address] }],
    events: {
      member: (member) => sync.memberJoined(member),
      memberGone: () => {},
      refused: () => {},
      gossip: (topic, data, from, author) => sync.gossip(topic, data, from, author),
    },
  })
  await sync.start(node)
  let holdReason = ''
  const own = await OwnRecord.open(
    new MemoryDisk(),
    () => ({ ...BLANK_RECORD, device: identity.id, name: device.name, trust: trust.versions, holdReason }),
    certificate,
    identity.sign,
    () => {},
  )
  setInterval(() => {
    const record = own.next(performance.now(), sync.book.size)
    if (record !== undefined) sync.publishRecord(record)
  }, 500)
  return { node, sync, own, say: (text) => (holdReason = text) }
}

const units: Unit[] = []
for (let at = 0; at < count; at += 1) {
  const known = units[Math.floor(Math.random() * units.length)]?.node
  units.push(await startUnit(at, known && { id: known.id, address: `/ip4/127.0.0.1/tcp/${known.port(4)}` }))
}
const until = async (check: () => boolean) => {
  while (!check()) await pause(20)
}
await until(() => units.every(({ sync }) => sync.book.size === count))
await pause(60_000)

const degrees = units.map(({ node }) => node.members().length)
const cpu = process.cpuUsage()
const bytesBefore = loopbackBytes()
const startedMs = performance.now()
await pause(watchSeconds * 1_000)
const seconds = (performance.now() - startedMs) / 1_000
const used = process.cpuUsage(cpu)
const perHour = ((loopbackBytes() - bytesBefore) / seconds) * 3_600

const told: number[] = []
for (let round = 0; round < 5; round += 1) {
  const speaker = units[(round * 7) % count]
  const device = speaker?.node.id ?? ''
  speaker?.say(`round ${round}`)
  const saidMs = performance.now()
  await until(() => units.every(({ sync }) => sync.book.get(device)?.record.holdReason === `round ${round}`))
  told.push((performance.now() - saidMs) / 1_000)
  await pause(1_000)
}
process.stdout.write(
  `${JSON.stringify({
    bytesPerHour: perHour / count,
    corePercent: (used.user + used.system) / 1e4 / seconds / count,
    residentMiB: process.memoryUsage.rss() / 2 ** 20 / count,
    neighbours: degrees.reduce((a, b) => a + b, 0) / count,
    toldSeconds: told.sort((a, b) => a - b)[2],
  })}\n`,
)
process.exit(0)

/** What the loopback of this namespace has carried. */
function loopbackBytes(): number {
  return Number(readFileSync('/sys/class/net/lo/statistics/tx_bytes', 'latin1'))
}
