import { FlotillaError } from '../errors.ts'
import { parseJson, shape } from '../shape.ts'
import type { MetadataBundle } from '../trust/metadata-bundle.ts'
import { MAX_ROOT_STEPS } from '../trust/trusted-set.ts'
import { FrameStream } from './frame-stream.ts'
import type { TrustVersions } from './hello.ts'
import type { Stream } from '@libp2p/interface'

/** Asks for trust metadata: one question, one bundle. */
export const METADATA_PROTOCOL = '/flotilla/meta/1'

/** Largest bundle: 64 roots of 4 KB and the roles of some hundred boards, base64. */
const MAX_BUNDLE_BYTES = 2 * 2 ** 20
const TIMEOUT_MS = 15_000

/** Sends the question and reads the bundle. Nothing in it is verified. @throws FlotillaError TIMEOUT, FORMAT, LENGTH */
export async function requestBundle(stream: Stream, have: TrustVersions): Promise<MetadataBundle> {
  const frames = new FrameStream(stream, { maxFrameBytes: () => MAX_BUNDLE_BYTES })
  frames.send(Buffer.from(JSON.stringify({ have })))
  const bundle = parseBundle(await frames.next(TIMEOUT_MS))
  await frames.close()
  return bundle
}

/** Answers one question with what `answer` gives. */
export async function serveBundle(stream: Stream, answer: (have: TrustVersions) => MetadataBundle): Promise<void> {
  const frames = new FrameStream(stream, { maxFrameBytes: () => 1_024 })
  const question = shape.object(
    parseJson(await frames.next(TIMEOUT_MS), 'metadata question', 1_024),
    'metadata question',
  )
  const have = shape.object(question['have'], 'metadata question: have')
  const bundle = answer({
    root: shape.integer(have['root'], 'have.root', 0),
    timestamp: shape.integer(have['timestamp'], 'have.timestamp', 0),
  })
  frames.send(encodeBundle(bundle))
  await frames.close()
}

/** A bundle as it travels: JSON with base64 members. */
export function encodeBundle(bundle: MetadataBundle): Uint8Array {
  const text = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64')
  return Buffer.from(
    JSON.stringify({
      roots: bundle.roots.map(text),
      timestamp: bundle.timestamp && text(bundle.timestamp),
      snapshot: bundle.snapshot && text(bundle.snapshot),
      roles: Object.fromEntries([...bundle.roles].map(([name, bytes]) => [name, text(bytes)])),
      policy: bundle.policy && text(bundle.policy),
    }),
  )
}

/** @throws FlotillaError LENGTH, FORMAT, LIMIT */
export function parseBundle(bytes: Uint8Array): MetadataBundle {
  const json = shape.object(parseJson(bytes, 'metadata bundle', MAX_BUNDLE_BYTES), 'metadata bundle')
  const file = (value: unknown, path: string) => Buffer.from(shape.string(value, path, 200_000), 'base64')
  const optional = (key: string) => (json[key] === undefined ? undefined : file(json[key], `metadata bundle: ${key}`))
  const roles = Object.entries(shape.object(json['roles'], 'metadata bundle: roles'))
  if (roles.length > 1_024) throw new FlotillaError('LIMIT', 'metadata bundle: more than 1024 roles')
  return {
    roots: shape
      .array(json['roots'], 'metadata bundle: roots', MAX_ROOT_STEPS)
      .map((item) => file(item, 'metadata bundle: roots[]')),
    timestamp: optional('timestamp'),
    snapshot: optional('snapshot'),
    roles: new Map(roles.map(([name, value]) => [name, file(value, `metadata bundle: roles.${name}`)])),
    policy: optional('policy'),
  }
}
