// A fleet of nodes in a few processes, each node with its own key, sockets and record: what a device hears and says when nothing
// happens, and how long news takes. `quiet-fleet REPOSITORY PERSIST COUNT SECONDS PROCESSES`, in a network namespace of its own,
// whose loopback carries nothing else. Prints one line of JSON.
import { type ChildProcess, fork } from 'node:child_process'
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

const [path = '', persist = '', countText = '0', secondsText = '0', processesText = '1'] = process.argv.slice(2)
const count = Number(countText)
const repository = Repository.open(path)
const caFile = listKeys(repository.keysDirectory()).find((key) => key.purpose === 'ca')?.path ?? ''
const ca = openKey(caFile, process.env['FLOTILLA_PASSPHRASE'] ?? '')
const quiet = new EventLog(`${persist}/log`, () => {})

type Known = { readonly id: string; readonly address: string }
/** What a further process has to start: nodes from a number on, which join the fleet at a known one. */
type Part = { readonly first: number; readonly count: number; readonly known: Known }
type Question = { readonly device: string; readonly says: string } | 'processor' | 'met'

type Unit = {
  readonly node: FleetNode
  readonly sync: FleetSync
  readonly own: OwnRecord
  readonly say: (text: string) => void
}

/** @param known - address of a node that is there already: the others are found through it, since loopback has no multicast */
async function startUnit(at: number, known: Known | undefined): Promise<Unit> {
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

async function startUnits(first: number, upTo: number, known: Known | undefined): Promise<void> {
  for (let at = first; at < upTo; at += 1) {
    const other = units[Math.floor(Math.random() * units.length)]?.node
    units.push(await startUnit(at, other === undefined ? known : knownOf(other)))
  }
}

function knownOf(node: FleetNode): Known {
  return { id: node.id, address: `/ip4/127.0.0.1/tcp/${node.port(4)}` }
}

async function until(check: () => boolean): Promise<void> {
  while (!check()) await pause(20)
}

/** Answers when it is so: with microseconds of processor for `processor`, the sum of neighbours for `met`. */
async function answer(question: Question): Promise<number> {
  if (question === 'processor') {
    const { user, system } = process.cpuUsage()
    return user + system
  }
  if (question === 'met') {
    await until(() => units.every(({ sync }) => sync.book.size === count))
    return units.reduce((sum, { node }) => sum + node.members().length, 0)
  }
  await until(() => units.every(({ sync }) => sync.book.get(question.device)?.record.holdReason === question.says))
  return 0
}

const given = process.env['FLOTILLA_QUIET_PART']
if (given !== undefined) {
  const part = JSON.parse(given) as Part
  process.on('message', (question: Question) => void answer(question).then((sum) => process.send?.(sum)))
  process.on('disconnect', () => process.exit(0))
  await startUnits(part.first, part.first + part.count, part.known)
} else process.stdout.write(`${JSON.stringify(await measure(Number(processesText), Number(secondsText)))}\n`)
if (given === undefined) process.exit(0)

async function measure(processes: number, watchSeconds: number): Promise<object> {
  const share = Math.floor(count / processes)
  await startUnits(0, 1, undefined)
  const known = knownOf(units[0]?.node ?? fail())
  const parts = Array.from(
    { length: processes - 1 },
    (_, at): Part => ({ first: (at + 1) * share, count: share, known }),
  )
  const others = parts.map((part) =>
    fork(import.meta.filename, process.argv.slice(2), {
      env: { ...process.env, FLOTILLA_QUIET_PART: JSON.stringify(part) },
    }),
  )
  const all = async (question: Question) =>
    (await Promise.all([answer(question), ...others.map((other) => ask(other, question))])).reduce((a, b) => a + b)
  await startUnits(1, count - parts.length * share, known)
  await all('met')
  await pause(60_000)

  const neighbours = (await all('met')) / count
  const processor = await all('processor')
  const bytesBefore = loopbackBytes()
  const startedMs = performance.now()
  await pause(watchSeconds * 1_000)
  const seconds = (performance.now() - startedMs) / 1_000
  const sentBytes = loopbackBytes() - bytesBefore
  const used = (await all('processor')) - processor

  const told: number[] = []
  for (let round = 0; round < 5; round += 1) {
    const speaker = units[(round * 7) % units.length] ?? fail()
    const says = `round ${round}`
    speaker.say(says)
    const saidMs = performance.now()
    await all({ device: speaker.node.id, says })
    told.push((performance.now() - saidMs) / 1_000)
    await pause(1_000)
  }
  for (const other of others) other.disconnect()
  return {
    bytesPerHour: (sentBytes / seconds / count) * 3_600,
    corePercent: used / 1e4 / seconds / count,
    neighbours,
    toldSeconds: told.sort((a, b) => a - b)[2],
  }
}

/** One question at a time. */
function ask(other: ChildProcess, question: Question): Promise<number> {
  return new Promise((resolve, reject) => {
    const ended = () => reject(new Error('a part of the fleet ended'))
    other.once('exit', ended)
    other.once('message', (sum) => {
      other.off('exit', ended)
      resolve(Number(sum))
    })
    other.send(question)
  })
}

function fail(): never {
  throw new Error('no unit')
}

/** What the loopback of this namespace has carried. */
function loopbackBytes(): number {
  return Number(readFileSync('/sys/class/net/lo/statistics/tx_bytes', 'latin1'))
}
