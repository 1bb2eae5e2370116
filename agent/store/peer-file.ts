import type { KnownPeer } from '../../protocol/network/dialer.ts'
import { parseJson, shape } from '../../protocol/shape.ts'
import type { Disk } from './disk.ts'
import { GenerationFile } from './generation-file.ts'

const MAX_BYTES = 262_144
const MAX_PEERS = 256

/** Peers that were known before the restart. A file that cannot be read is no loss: peers are found again. */
export async function loadPeers(persist: Disk): Promise<readonly KnownPeer[]> {
  try {
    const bytes = await new GenerationFile(persist, 'update/peers', MAX_BYTES).read()
    if (bytes === undefined) return []
    return shape.array(parseJson(bytes, 'peers', MAX_BYTES), 'peers', MAX_PEERS).map((item) => {
      const peer = shape.object(item, 'peers[]')
      const addresses = shape.array(peer['addresses'], 'peers[].addresses', 8)
      return {
        id: shape.string(peer['id'], 'peers[].id', 128),
        addresses: addresses.map((address) => shape.string(address, 'peers[].addresses[]', 128)),
      }
    })
  } catch {
    return []
  }
}

/** Remembers peers over a restart, at most 256. */
export async function savePeers(persist: Disk, peers: readonly KnownPeer[]): Promise<void> {
  const bytes = Buffer.from(JSON.stringify(peers.slice(0, MAX_PEERS)))
  await new GenerationFile(persist, 'update/peers', MAX_BYTES).write(bytes)
}
