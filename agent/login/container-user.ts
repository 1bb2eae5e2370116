import type Docker from 'dockerode'
import { extract } from 'tar-stream'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'

/** Who a session is inside its container. */
export type ContainerUser = {
  readonly name: string
  readonly uid: number
  readonly gid: number
  /** Undefined when it is not there. */
  readonly home: string | undefined
}

const MAX_PASSWD_BYTES = 1_048_576

/**
 * Looks a user up in a container's `/etc/passwd`.
 * @param wanted - name or number; undefined stands for root
 * @returns undefined when the container does not know it
 */
export async function findContainerUser(
  container: Docker.Container,
  wanted: string | undefined,
): Promise<ContainerUser | undefined> {
  const [who = 'root'] = (wanted || 'root').split(':')
  const line = (await readPasswd(container))
    .split('\n')
    .map((text) => text.split(':'))
    .find(([name, , uid]) => name === who || uid === who)
  if (line === undefined) {
    // A number needs no name.
    if (/^\d+$/.test(who)) return { name: who, uid: Number(who), gid: Number(who), home: undefined }
    return who === 'root' ? { name: 'root', uid: 0, gid: 0, home: undefined } : undefined
  }
  const [name = who, , uid = '0', gid = '0', , home = ''] = line
  const isThere =
    home.startsWith('/') &&
    (await container.infoArchive({ path: home }).then(
      () => true,
      () => false,
    ))
  return { name, uid: Number(uid), gid: Number(gid), home: isThere ? home : undefined }
}

/** By Docker's own copy: a link in the container stays in the container. Empty when there is none. */
async function readPasswd(container: Docker.Container): Promise<string> {
  const archive = await container.getArchive({ path: '/etc/passwd' }).catch((cause: { statusCode?: number }) => {
    if (cause.statusCode === 404) return undefined
    throw new FlotillaError('UNREACHABLE', `log in: read the container's users: ${messageOf(cause)}`, { cause })
  })
  if (archive === undefined) return ''
  const parts: Buffer[] = []
  const reader = extract()
  let isFirst = true
  reader.on('entry', (header, stream, next) => {
    // One plain file; a directory of that name may hold as much as it likes.
    const isIt = isFirst && header.type === 'file' && (header.size ?? 0) <= MAX_PASSWD_BYTES
    isFirst = false
    if (isIt) stream.on('data', (part) => parts.push(part as Buffer))
    else stream.resume()
    stream.on('end', () => next())
  })
  await new Promise<void>((resolve, reject) => {
    reader.on('finish', resolve)
    reader.on('error', reject)
    archive.on('error', reject)
    archive.pipe(reader)
  })
  return Buffer.concat(parts).toString('utf8')
}
