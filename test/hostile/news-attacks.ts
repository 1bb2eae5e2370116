import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { parseRecord, signRecord } from '../../protocol/gossip/device-record.ts'
import { signCertificate } from '../../protocol/membership/certificate.ts'
import { type FleetNode, TOPICS } from '../../protocol/network/fleet-node.ts'
import { type Identity, identityFromSeed } from '../../protocol/network/identity.ts'
import { METADATA_PROTOCOL, serveBundle } from '../../protocol/network/metadata-exchange.ts'
import { askRecords, RECORD_SYNC_PROTOCOL } from '../../protocol/network/record-sync.ts'
import type { MetadataBundle } from '../../protocol/trust/metadata-bundle.ts'
import { Repository } from '../../builder/release/repository.ts'
import { type Attack, refusedWith, repeat } from './attack.ts'
import { type Company, joinAsMember, recordOf, startNode, stolenCa, stolenDevice } from './company.ts'

const AHEAD = { root: 1, timestamp: 999_999 }

/** Attacks on who belongs to the fleet and what is told in it: connections, identities, records, metadata. @see protocol/spec/threats.md */
export const NEWS_ATTACKS: readonly Attack[] = [
  {
    name: 'idle-connections',
    does: 'a thousand connections to each port of which none says anything',
    refused: undefined,
    mount: async (company) => {
      for (const address of company.addresses) {
        const [, , host = '', , port = ''] = address.split('/')
        for (const target of [Number(port), Number(port) + 1]) {
          void repeat(1_000, async () => {
            connect(target, host)
              .on('error', () => {})
              .once('connect', () => company.did())
            await pause(1)
          })
        }
      }
      await pause(0)
    },
  },
  {
    name: 'forged-identities',
    does: 'ten thousand identities with certificates of a CA of its own',
    refused: refusedWith('NOT_A_MEMBER'),
    mount: async (company) => {
      void repeat(10_000, async (at) => {
        const { identity, certificate } = stranger(company)
        const node = await startNode(company, identity, certificate, { root: 1, timestamp: 1 })
        company.did()
        // Most are gone in the middle of their hello; every eighth stays for an answer, on a busy machine too.
        await pause(at % 8 === 7 ? 1_000 : 20)
        await node.stop()
      })
      await pause(0)
    },
  },
  {
    name: 'forged-records',
    does: 'ten thousand records of devices that a CA of its own admits',
    refused: refusedWith('BAD_NEWS'),
    mount: async (company) => {
      const offender = await joinAsMember(company)
      tell(company, offender.node, 10_000, (at) => {
        const { identity, certificate } = stranger(company)
        return signRecord(recordOf(identity.id, at), certificate, identity.sign)
      })
    },
  },
  {
    name: 'true-records',
    does: 'thousands of records of devices that a stolen CA key admits; a device keeps 2 000',
    refused: undefined,
    mount: async (company) => {
      const ca = stolenCa(company.repository)
      const ghost = (name: string) => {
        const { identity, certificate } = admittedBy(ca, company, name)
        return { signed: parseRecord(signRecord(recordOf(identity.id, 1), certificate, identity.sign)), ageMs: 0 }
      }
      const offender = await joinAsMember(company)
      void repeat(80, async (round) => {
        const batch = Array.from({ length: 128 }, (_, at) => ghost(`ghost-${round}-${at}`))
        await Promise.all(
          offender.node.members().map(async ({ id }) => {
            await askRecords(await offender.node.open(id, RECORD_SYNC_PROTOCOL), {
              summary: () => '',
              digest: () => [],
              newerThan: () => batch,
              take: () => {},
              peers: () => [],
              takePeer: () => {},
            })
            company.did(batch.length)
          }),
        )
      })
    },
  },
  {
    name: 'record-flood',
    does: 'its own record, newly signed, as fast as it can',
    refused: refusedWith('FLOOD'),
    mount: async (company) => {
      const offender = await joinAsMember(company)
      tell(company, offender.node, 20_000, (at) => offender.signedRecord(at))
    },
  },
  {
    name: 'repeated-news',
    does: "repeats another member's signed news as fast as that one could never tell it",
    refused: refusedWith('BAD_NEWS'),
    mount: async (company) => {
      const offender = await joinAsMember(company)
      const { seed, certificate } = stolenDevice(company.victim)
      const victim = identityFromSeed(seed)
      // Told by the offender: what the victim itself may say must not be used up by it.
      tell(company, offender.node, 400, (at) => signRecord(recordOf(victim.id, at), certificate, victim.sign), 10)
    },
  },
  {
    name: 'old-records',
    does: 'a record that was superseded, told again and again',
    refused: undefined,
    mount: async (company) => {
      const offender = await joinAsMember(company)
      await offender.node.publish(TOPICS.records, offender.signedRecord(10))
      tell(company, offender.node, 9, (at) => offender.signedRecord(at), 200)
    },
  },
  {
    name: 'cloned-key',
    does: "a copy of a device's disk, switched on elsewhere",
    refused: refusedWith('TWICE'),
    mount: async (company) => {
      const { seed, certificate } = stolenDevice(company.victim)
      const identity = identityFromSeed(seed)
      const others = { ...company, addresses: company.addresses.slice(1) }
      const node = await startNode(others, identity, certificate, { root: 1, timestamp: 0 })
      // As if it were switched off and on again and again.
      const record = (at: number) => recordOf(identity.id, (at + 5) * 2 ** 24)
      tell(company, node, 1_000, (at) => signRecord(record(at), certificate, identity.sign), 500)
    },
  },
  {
    name: 'stranger',
    does: 'a certificate of a CA of its own',
    refused: refusedWith('NOT_A_MEMBER'),
    mount: async (company) => {
      const { identity, certificate } = stranger(company)
      await startNode(company, identity, certificate, { root: 1, timestamp: 1 })
      company.did()
    },
  },
  {
    name: 'old-metadata',
    does: 'claims to be ahead and hands out superseded metadata',
    refused: refusedWith('ROLLBACK', 'metadata-refused'),
    mount: (company) => {
      const superseded = { ...Repository.open(`${company.repository.path}-old`).bundle(), roots: [] }
      return serveMetadata(company, () => superseded)
    },
  },
  {
    name: 'unsigned-metadata',
    does: 'claims to be ahead and hands out altered timestamp metadata',
    refused: refusedWith('SIGNATURE', 'metadata-refused'),
    mount: (company) =>
      serveMetadata(company, (bundle) => {
        const text = Buffer.from(bundle.timestamp ?? '').toString()
        return { ...bundle, timestamp: Buffer.from(text.replace(/"version":\d+\}/, '"version":999999}')) }
      }),
  },
  {
    name: 'withheld-snapshot',
    does: 'a genuine new timestamp, without the snapshot that it names',
    refused: refusedWith('MISSING', 'metadata-refused'),
    mount: (company) => serveMetadata(company, (bundle) => ({ ...bundle, snapshot: undefined, roles: new Map() })),
  },
  {
    name: 'costly-metadata',
    does: 'a bundle as large as is read, nested as deep and signed as often as a file may be, with no good signature',
    refused: refusedWith('SIGNATURE', 'metadata-refused'),
    mount: (company) =>
      serveMetadata(company, (bundle) => {
        const signatures = JSON.stringify(
          Array.from({ length: 16 }, () => ({ keyid: randomBytes(32).toString('hex'), sig: 'cd'.repeat(64) })),
        )
        const file = (padding: number) =>
          Buffer.from(
            `{"signatures":${signatures},"signed":${'{"a":'.repeat(30)}"${'x'.repeat(padding)}"${'}'.repeat(30)}}`,
          )
        const roles = new Map(Array.from({ length: 12 }, (_, at) => [`board-${at}.stable`, file(100_000)]))
        return { ...bundle, timestamp: file(0), snapshot: file(100_000), roles }
      }),
  },
]

/** Claims to be ahead and answers every question for metadata with what `spoil` makes of the newest genuine set. */
async function serveMetadata(company: Company, spoil: (bundle: MetadataBundle) => MetadataBundle): Promise<void> {
  const serve = (node: FleetNode) =>
    node.handle(METADATA_PROTOCOL, (stream) => {
      company.did()
      return serveBundle(stream, () => spoil({ ...company.repository.bundle(), roots: [] }))
    })
  const offender = await joinAsMember(company, AHEAD, serve)
  void repeat(100_000, async () => {
    await offender.node.publish(TOPICS.announce, Buffer.from(JSON.stringify(AHEAD)))
    await pause(300)
  })
}

/** Publishes so many signed records, one after the other and as fast as they go, or with a pause after each. */
function tell(
  company: Company,
  node: FleetNode,
  times: number,
  record: (at: number) => Uint8Array,
  everyMs?: number,
): void {
  void repeat(times, async (at) => {
    await node.publish(TOPICS.records, record(at))
    company.did()
    if (everyMs !== undefined) await pause(everyMs)
  })
}

/** A new identity, and a certificate with which the holder of a CA key lets it in. */
type Newcomer = { readonly identity: Identity; readonly certificate: Uint8Array }

function admittedBy(
  ca: { readonly publicHex: string; readonly sign: Identity['sign'] },
  company: Company,
  name: string,
): Newcomer {
  const { fleet } = company.repository
  const identity = identityFromSeed(randomBytes(32))
  const capabilities = ['sync'] as const
  const card = { fleet, device: identity.id, name, board: 'pi-4', capabilities, serial: 1, epoch: 1 }
  return { identity, certificate: signCertificate(card, ca.publicHex, ca.sign) }
}

/** Let in by a CA of its own, of which the fleet knows nothing. */
function stranger(company: Company): Newcomer {
  return admittedBy(identityFromSeed(randomBytes(32)), company, 'stranger')
}
