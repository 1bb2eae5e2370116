import { type ErrorCode, FlotillaError, messageOf } from '../../protocol/errors.ts'

type Reply = { readonly statusCode?: number; readonly code?: string; readonly name?: string }

/** The engine does not answer, or went away: everything is tried again later. */
const SILENT = /ECONNREFUSED|ENOENT|EACCES|ECONNRESET|EPIPE|socket hang up|ETIMEDOUT|aborted/

/** What Docker says of what a file asks for, by the key that asks for it, and what can be done. */
const RULES: readonly (readonly [RegExp, ErrorCode, string, string])[] = [
  [/no space left on device/i, 'NOT_ENOUGH_SPACE', '', 'the disk of the engine is full; free space'],
  [
    /port is already allocated|address already in use|ports are not available/i,
    'BUSY',
    '.ports',
    'a program or another container has that port; choose another hostPort or stop it',
  ],
  [/bind source path does not exist|invalid mount config/i, 'BAD_CONFIG', '.mounts', 'make the path, or correct it'],
  [
    /error gathering device information|no such device|not a device node/i,
    'BAD_CONFIG',
    '.devices',
    'the device is not there; connect it, or take it out of the list',
  ],
  [
    /could not select device driver/i,
    'BAD_CONFIG',
    '.gpus',
    'the engine has no driver for it; install the container toolkit of the GPU',
  ],
  [/unknown or invalid runtime|unknown runtime/i, 'BAD_CONFIG', '.runtime', "name one of the engine's runtimes"],
  [/network .* not found|network-scoped/i, 'BAD_CONFIG', '.networks', 'correct the name of the network'],
  [/capabilit|apply caps/i, 'BAD_CONFIG', '.capAdd', 'the engine may not give these capabilities'],
  [/unable to find user|no matching entries in passwd/i, 'BAD_CONFIG', '.user', 'name a user that the image has'],
  [
    /executable file not found|exec: ".*no such file or directory|exec format error/i,
    'BAD_CONFIG',
    '.entrypoint',
    'the image has no such program; correct entrypoint or cmd',
  ],
  [/conflicting options/i, 'BAD_CONFIG', '', 'two keys exclude each other'],
  [/name .* is already in use/i, 'ALREADY_EXISTS', '', 'another container has that name; rename it'],
]

/**
 * What went wrong in words: which container, which key, what to do. Anything that is not an answer of the engine stays as it is.
 * @param what - what was attempted, such as `start core`
 * @param container - name in the file, for the key
 */
export function explainEngineError(error: unknown, what: string, container?: string): FlotillaError {
  if (error instanceof FlotillaError) return error
  const { statusCode, code, name } = error as Reply
  const said = messageOf(error).replaceAll(/\s+/g, ' ')
  if (isSilence(error) || name === 'TimeoutError' || name === 'AbortError')
    return new FlotillaError('UNREACHABLE', `${what}: the container engine does not answer (${code ?? said})`, {
      cause: error,
    })
  const rule = RULES.find(([pattern]) => pattern.test(said))
  if (rule !== undefined) {
    const [, errorCode, key, next] = rule
    const where = container === undefined || key === '' ? what : `${what}: containers.${container}${key}`
    return new FlotillaError(errorCode, `${where}: ${next} (the engine says: ${said})`, { cause: error })
  }
  const codeOf = statusCode === 404 ? 'NOT_FOUND' : statusCode === 409 ? 'BUSY' : 'BAD_CONFIG'
  return new FlotillaError(statusCode === undefined ? 'UNEXPECTED' : codeOf, `${what}: the engine says: ${said}`, {
    cause: error,
  })
}

/** Whether nothing was heard at all, so that nobody knows whether it was done. */
function isSilence(error: unknown): boolean {
  const { statusCode, code } = error as Reply
  return statusCode === undefined && SILENT.test(`${code ?? ''} ${messageOf(error)}`)
}
