import { readFile } from 'node:fs/promises'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { parseJson, shape } from '../../protocol/shape.ts'
import type { Credentials } from './engine.ts'

const MAX_BYTES = 65_536
/** As Docker itself names its registry in such a file. */
const DOCKER_HUB = 'https://index.docker.io/v1/'

/**
 * Who may pull from a registry, from a file that `docker login` writes.
 * @throws FlotillaError BAD_CONFIG with what is wrong in it; never what it contains
 */
export async function readCredentials(file: string, registry: string | undefined): Promise<Credentials> {
  const address = registry ?? DOCKER_HUB
  try {
    const json = shape.object(parseJson(await readFile(file), file, MAX_BYTES), file)
    const auths = shape.object(json['auths'], `${file}: auths`)
    const entry = shape.object(auths[address] ?? auths[`https://${address}`], `${file}: auths["${address}"]`)
    const auth = Buffer.from(shape.string(entry['auth'], `${file}: auth`, 8_192), 'base64').toString('utf8')
    const colon = auth.indexOf(':')
    if (colon < 1) throw new Error(`${file}: auth of ${address} is not a name and a password`)
    return { username: auth.slice(0, colon), password: auth.slice(colon + 1), serveraddress: address }
  } catch (cause) {
    throw new FlotillaError('BAD_CONFIG', `read credentials: ${messageOf(cause)}`, { cause })
  }
}
