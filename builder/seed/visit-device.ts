import type { Member } from '../../protocol/network/fleet-node.ts'
import type { Repository } from '../release/repository.ts'
import { findDevice } from './find-device.ts'
import { OperatorSession, operatorIdentity } from './operator-session.ts'

/**
 * Connects to one device as the operator, without anything to hand over but the metadata, for as long as `work` takes.
 * @param device - name, id or address
 * @throws FlotillaError NOT_FOUND, UNREACHABLE, NOT_A_MEMBER; what the work throws
 */
export async function visitDevice<T>(
  repository: Repository,
  ca: Parameters<typeof operatorIdentity>[1],
  device: string,
  interfaces: readonly string[],
  work: (session: OperatorSession, member: Member) => Promise<T>,
): Promise<T> {
  const identity = operatorIdentity(repository, ca)
  const session = new OperatorSession({ repository, ...identity, releases: [], onRefused: () => {} })
  await session.start()
  try {
    return await work(session, await session.connect(await findDevice(device, repository.fleet, interfaces)))
  } finally {
    await session.stop()
  }
}
