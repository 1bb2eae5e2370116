import type { Repository } from '../release/repository.ts'
import { publishStaged, signStaged, stagingDirectory } from '../release/staging.ts'
import { askPassphrase } from './ask.ts'

/**
 * Signs what is staged with every key that lies in the repository and publishes it: the short way, for fleets whose
 * keys are in one hand. @throws FlotillaError SIGNATURE when they are not
 */
export async function signAndPublish(repository: Repository): Promise<void> {
  const passphrase = await askPassphrase('the keys')
  const staging = stagingDirectory(repository)
  const purposes = ['ci', 'manager', 'fleet'] as const
  signStaged(
    repository,
    staging,
    purposes.flatMap((purpose) => [...repository.openKeys(purpose, passphrase)]),
  )
  publishStaged(repository, staging, {
    publishers: repository.openKeys('publisher', passphrase),
    nowMs: Date.now(),
    minRoot: undefined,
  })
}
