import { createHash } from 'node:crypto'
import nacl from 'tweetnacl'
import {
  composeRole,
  composeRoot,
  composeSnapshot,
  composeTargets,
  composeTimestamp,
  signedFile,
  type MetadataJson,
  metadataBytes,
  signMetadata,
} from '../../builder/release/compose-metadata.ts'
import type { SigningKey } from '../../builder/release/key-file.ts'
import type { MetadataBundle } from '../../protocol/trust/metadata-bundle.ts'
import { ed25519KeyJson, keyIdOf } from '../../protocol/trust/public-key.ts'

/** 2026-11-01, the time at which toy repositories begin. */
export const T0 = Date.UTC(2026, 10, 1)
export const DAY = 86_400_000

/** A key made from a name: the same in every run. */
export function toyKey(name: string): SigningKey {
  const pair = nacl.sign.keyPair.fromSeed(createHash('sha256').update(name).digest())
  const publicHex = Buffer.from(pair.publicKey).toString('hex')
  const keyId = keyIdOf(ed25519KeyJson(publicHex))
  return { name, purpose: 'root', publicHex, keyId, path: '', sign: (m) => nacl.sign.detached(m, pair.secretKey) }
}

export type ToyKeys = {
  root: SigningKey[]
  targets: SigningKey[]
  publisher: SigningKey[]
  board: SigningKey[]
}

/** A repository in memory that signs with tweetnacl and can be told to misbehave. */
export class ToyRepository {
  readonly keys: ToyKeys = {
    root: [toyKey('root-1'), toyKey('root-2'), toyKey('root-3')],
    targets: [toyKey('manager-1'), toyKey('manager-2')],
    publisher: [toyKey('publisher-1'), toyKey('publisher-2')],
    board: [toyKey('ci-1'), toyKey('manager-1')],
  }
  readonly roots: Uint8Array[] = []
  versions = { targets: 0, board: 0, snapshot: 0, timestamp: 0 }
  nowMs = T0
  era = 1
  minRoot: number | undefined
  roles = new Map<string, Uint8Array>()
  snapshot: Uint8Array = new Uint8Array()
  timestamp: Uint8Array = new Uint8Array()
  release: Uint8Array = Buffer.from('{"release":1}')

  constructor() {
    this.signRoot()
    this.publish({ targets: true, board: true })
  }

  rootJson(): MetadataJson {
    const hexes = (keys: SigningKey[]) => keys.map((key) => key.publicHex)
    const publisher = { keys: hexes(this.keys.publisher), threshold: 1 }
    return composeRoot(this.roots.length + 1, this.nowMs, {
      root: { keys: hexes(this.keys.root), threshold: 2 },
      targets: { keys: hexes(this.keys.targets), threshold: 2 },
      snapshot: publisher,
      timestamp: publisher,
    })
  }

  /** Signs the next root with the first two old and the first two new root keys. */
  signRoot(signers: SigningKey[] = this.keys.root.slice(0, 2), old: SigningKey[] = []): void {
    this.roots.push(metadataBytes(signMetadata(this.rootJson(), [...signers, ...old])))
  }

  publish(what: { targets?: boolean; board?: boolean } = {}): void {
    const hexes = this.keys.board.map((key) => key.publicHex)
    if (what.targets === true) {
      this.versions.targets += 1
      const delegation = { name: 'pi-4.stable', keys: hexes, threshold: 2, paths: ['pi-4/stable/*'] }
      const json = composeTargets(this.versions.targets, this.nowMs, this.era, [delegation])
      this.roles.set('targets', metadataBytes(signMetadata(json, this.keys.targets)))
    }
    if (what.board === true) {
      this.versions.board += 1
      const json = composeRole(
        'pi-4.stable',
        this.versions.board,
        this.nowMs,
        new Map([['pi-4/stable/release', signedFile(this.release)]]),
      )
      this.roles.set('pi-4.stable', metadataBytes(signMetadata(json, this.keys.board)))
    }
    this.versions.snapshot += 1
    this.versions.timestamp += 1
    const publisher = this.keys.publisher.slice(0, 1)
    this.snapshot = metadataBytes(
      signMetadata(composeSnapshot(this.versions.snapshot, this.nowMs, this.roles), publisher),
    )
    const timestamp = composeTimestamp(
      this.versions.timestamp,
      this.nowMs,
      this.snapshot,
      this.minRoot ?? this.roots.length,
    )
    this.timestamp = metadataBytes(signMetadata(timestamp, publisher))
  }

  /** What a peer would hand over to a device that has root `rootVersion`. */
  bundle(rootVersion = 1): MetadataBundle {
    return {
      roots: this.roots.slice(rootVersion),
      timestamp: this.timestamp,
      snapshot: this.snapshot,
      roles: new Map(this.roles),
      policy: undefined,
    }
  }
}
