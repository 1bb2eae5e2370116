import { rm, mkdir } from 'node:fs/promises'
import type { Server } from 'node:http'
import { createRequire } from 'node:module'
import { dirname } from 'node:path'
import { type ErrorCode, EXIT_CODES, FlotillaError, messageOf } from '../../protocol/errors.ts'
import { parseJson, shape } from '../../protocol/shape.ts'
import { listenPrivately } from './listen-privately.ts'

// An ES import of node:http loads undici for the names it exports: 70 ms and 15 MiB at every start (measured).
const { createServer, request } = createRequire(import.meta.url)('node:http') as typeof import('node:http')

/** What can be asked of an agent on its own device. Answers are JSON. */
export type LocalApi = { readonly [route: string]: (body: unknown) => Promise<unknown> | unknown }

const MAX_BODY_BYTES = 65_536

/** Serves the routes (`GET /status`) on a Unix socket that only root and its group may use. */
export async function serveLocalApi(socketPath: string, routes: LocalApi): Promise<Server> {
  await mkdir(dirname(socketPath), { recursive: true })
  await rm(socketPath, { force: true }) // left by an agent that was killed
  const server = createServer((incoming, outgoing) => {
    const answer = (status: number, body: unknown) => {
      outgoing.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    }
    // Not by URL: it throws on `//`, and a request must never take the agent down.
    const route = routes[`${incoming.method} ${(incoming.url ?? '/').split('?', 1)[0]}`]
    if (route === undefined)
      return answer(404, { error: { code: 'NOT_FOUND', message: `no such call: ${incoming.method} ${incoming.url}` } })
    const parts: Buffer[] = []
    let size = 0
    incoming.on('data', (part: Buffer) => {
      size += part.length
      if (size <= MAX_BODY_BYTES) parts.push(part)
      else incoming.destroy()
    })
    incoming.on('end', () => {
      const run = async () => route(size === 0 ? undefined : parseJson(Buffer.concat(parts), 'request', MAX_BODY_BYTES))
      run().then(
        (body) => answer(200, body ?? {}),
        (error: unknown) => {
          const code = error instanceof FlotillaError ? error.code : 'UNEXPECTED'
          answer(400, { error: { code, message: messageOf(error) } })
        },
      )
    })
  })
  await listenPrivately(server, socketPath, 0o117)
  return server
}

/** Asks the agent. @throws FlotillaError UNREACHABLE when none runs, or the agent's own error */
export function askAgent(socketPath: string, method: 'GET' | 'POST', path: string, body?: unknown): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath, method, path, timeout: 10_000 }, (incoming) => {
      const parts: Buffer[] = []
      incoming.on('data', (part: Buffer) => parts.push(part))
      incoming.on('end', () => {
        try {
          const answer = parseJson(Buffer.concat(parts), 'answer of the agent', 16 * 2 ** 20)
          if (incoming.statusCode === 200) return resolve(answer)
          const error = shape.object(shape.object(answer, 'answer')['error'], 'answer: error')
          const code = String(error['code'])
          reject(new FlotillaError(code in EXIT_CODES ? (code as ErrorCode) : 'UNEXPECTED', String(error['message'])))
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)))
        }
      })
    })
    outgoing.on('timeout', () =>
      outgoing.destroy(new FlotillaError('TIMEOUT', `ask the agent at ${socketPath}: no answer in 10 s`)),
    )
    outgoing.on('error', (cause) => {
      reject(
        cause instanceof FlotillaError
          ? cause
          : new FlotillaError(
              'UNREACHABLE',
              `ask the agent at ${socketPath}: ${cause.message}; is it running? (flotilla agent run)`,
              { cause },
            ),
      )
    })
    outgoing.end(body === undefined ? undefined : JSON.stringify(body))
  })
}
