import { FlotillaError } from '../../protocol/errors.ts'
import type { Repository } from '../release/repository.ts'
import type { operatorIdentity } from './operator-session.ts'
import { visitDevice } from './visit-device.ts'

/**
 * Hands the published metadata to one device (a halt, an opened wave, a policy) and waits until it says that it holds it.
 * @returns the device's name
 * @throws FlotillaError UNREACHABLE, NOT_A_MEMBER, TIMEOUT
 */
export function tellDevice(
  repository: Repository,
  ca: Parameters<typeof operatorIdentity>[1],
  device: string,
  interfaces: readonly string[],
  timeoutMs: number,
): Promise<string> {
  return visitDevice(repository, ca, device, interfaces, async (session, member) => {
    const wanted = repository.trustedSet().timestamp?.data.version ?? 0
    const deadline = performance.now() + timeoutMs
    while ((session.trustOf(member.id) ?? 0) < wanted) {
      if (performance.now() > deadline)
        throw new FlotillaError(
          'TIMEOUT',
          `tell ${member.certificate.name}: connected, but it has not said that it holds the new metadata`,
        )
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    return member.certificate.name
  })
}
