import { join } from 'node:path'
import { parseDocument } from 'yaml'
import { FlotillaError } from '../../protocol/errors.ts'
import type { CoreFile } from '../core/core-files.ts'
import { writeDurably } from '../store/write-durably.ts'
import type { BackupFacts } from './backup-facts.ts'

/**
 * Gives this device what `skiff-core.yaml` says of a container that it takes over, unless its own file, or its release's, names it
 * already: the container with its image is added, everything else stays as it is written.
 * @param directory - `/mnt/persist/skiff/core`
 * @returns whether the file changed
 * @throws FlotillaError BAD_CONFIG when the file of the backup does not name the container
 */
export async function bringCoreFile(
  directory: string,
  container: string,
  { coreFile }: Pick<BackupFacts, 'coreFile'>,
  current: () => Promise<CoreFile>,
): Promise<boolean> {
  const { core, text } = await current()
  if (core.containers.has(container)) return false
  const from = parseDocument(coreFile)
  const definition = from.getIn(['containers', container], true)
  if (definition === undefined)
    throw new FlotillaError('BAD_CONFIG', `take over ${container}: the skiff-core.yaml in its backup does not name it`)
  const to = parseDocument(text.trim() === '' ? '{}' : text)
  to.setIn(['containers', container], plain(definition))
  const image = from.getIn(['containers', container, 'image'])
  const source = from.getIn(['images', image], true)
  if (source !== undefined && !to.hasIn(['images', image])) to.setIn(['images', image], plain(source))
  await writeDurably(join(directory, 'skiff-core.yaml'), to.toString())
  return true

  /** Without anchors and aliases, which mean nothing in another file. */
  function plain(node: unknown): unknown {
    return to.createNode((node as { toJS: (document: typeof from) => unknown }).toJS(from))
  }
}
