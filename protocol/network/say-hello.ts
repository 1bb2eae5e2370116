import type { Connection } from '@libp2p/interface'
import { FrameStream } from './frame-stream.ts'
import { encodeHello, type Hello, MAX_HELLO_BYTES, parseHello } from './hello.ts'

/** The first protocol of every connection. */
export const HELLO = '/flotilla/hello/1'
export const HELLO_TIMEOUT_MS = 5_000

/** Every libp2p peer answers to it: good to see whether a connection still works. */
const ALIVE = '/ipfs/id/1.0.0'
const ALIVE_TIMEOUT_MS = 2_000

/** The dialling side: says hello and hears the answer. @throws FlotillaError TIMEOUT, LENGTH, FORMAT; whatever libp2p throws */
export async function sayHello(connection: Connection, own: Hello): Promise<Hello> {
  const stream = await connection.newStream(HELLO, { signal: AbortSignal.timeout(HELLO_TIMEOUT_MS) })
  const frames = new FrameStream(stream, { maxFrameBytes: () => MAX_HELLO_BYTES })
  frames.send(encodeHello(own))
  const hello = parseHello(await frames.next(HELLO_TIMEOUT_MS))
  await frames.close()
  return hello
}

/** The host of a multiaddr, undefined when it has none. */
export function hostIn(address: string): string | undefined {
  return /^(?:\/ip6zone\/[^/]+)?\/(?:ip4|ip6)\/([^/]+)\//.exec(address)?.[1]
}

/**
 * Whether the peer of a new connection is connected from another host, and answers there. A copy of its key elsewhere must
 * not push it out; a device whose address changed does not answer at the old one any more, and takes its place: the old
 * connection is aborted.
 * @param others - all connections of the peer
 * @returns the other host, undefined when there is none that answers
 */
export async function hostElsewhere(
  { remoteAddr }: Connection,
  others: readonly Connection[],
): Promise<string | undefined> {
  const host = hostIn(remoteAddr.toString())
  for (const other of others) {
    const otherHost = hostIn(other.remoteAddr.toString())
    if (otherHost === host) continue
    if (await isAlive(other)) return otherHost
    other.abort(new Error('silent, and connected from elsewhere'))
  }
  return undefined
}

async function isAlive(connection: Connection): Promise<boolean> {
  try {
    const stream = await connection.newStream(ALIVE, { signal: AbortSignal.timeout(ALIVE_TIMEOUT_MS) })
    stream.abort(new Error('alive'))
    return true
  } catch {
    return false
  }
}
