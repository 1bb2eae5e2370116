#!/usr/bin/env node
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { rolesForPath } from '../../protocol/trust/delegations.ts'
import type { MetadataCaps, TargetFile } from '../../protocol/trust/metadata.ts'
import { judgeExpiry, timeFloorMs } from '../../protocol/trust/time-floor.ts'
import {
  acceptRole,
  acceptRoot,
  acceptSnapshot,
  acceptTimestamp,
  hasCurrentRole,
  hasCurrentSnapshot,
  requireFreshRoot,
  requireMatch,
  reverifySet,
  type TrustedSet,
  type TrustRules,
  trustRoot,
} from '../../protocol/trust/trusted-set.ts'

/**
 * The client that the public TUF conformance suite drives: the device's own core, with metadata over HTTP.
 * `tuf-client [--metadata-dir D] [--metadata-url U] [--target-name N] [--target-base-url U] [--target-dir D]
 * [--ed25519-only] init ROOT | refresh | download`; exit 0 or 1.
 */
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    'metadata-dir': { type: 'string', default: '.' },
    'metadata-url': { type: 'string', default: '' },
    'target-name': { type: 'string', multiple: true, default: [] },
    'target-base-url': { type: 'string', default: '' },
    'target-dir': { type: 'string', default: '.' },
    'ed25519-only': { type: 'boolean', default: false },
  },
})
const CAPS: MetadataCaps = { root: 512_000, timestamp: 16_384, snapshot: 2_000_000, targets: 5_000_000, keys: 4_096 }
const MAX_ROOTS = 256
const MAX_DELEGATIONS = 32
const directory = values['metadata-dir']
// The time is read once: a refresh must not change its mind half way (TUF specification, 5.1).
const rules: TrustRules = {
  keys: values['ed25519-only'] ? 'ed25519-only' : 'all-key-types',
  caps: CAPS,
  expiry: { mode: 'clock', nowMs: Date.now() },
}

try {
  await run(positionals[0], positionals[1])
} catch (error) {
  process.stderr.write(`${messageOf(error)} [${error instanceof FlotillaError ? error.code : 'UNEXPECTED'}]\n`)
  process.exitCode = 1
}

async function run(command: string | undefined, rootFile: string | undefined): Promise<void> {
  if (command === 'init' && rootFile !== undefined) {
    const bytes = readFileSync(rootFile)
    const set = trustRoot(bytes, 0, rules)
    mkdirSync(directory, { recursive: true })
    for (const name of readdirSync(directory)) if (name.endsWith('.json')) rmSync(join(directory, name))
    save({ ...set, roles: new Map() })
  } else if (command === 'refresh') save(await refresh(load()))
  else if (command === 'download') {
    let set = await refresh(load())
    for (const name of values['target-name']) set = await download(set, name)
  } else throw new FlotillaError('USAGE', 'tuf-client: init ROOT, refresh or download')
}

function load(): TrustedSet {
  const read = (name: string) => {
    const path = join(directory, `${encodeURIComponent(name)}.json`)
    return existsSync(path) ? readFileSync(path) : undefined
  }
  const root = read('root')
  if (root === undefined) throw new FlotillaError('MISSING', `${directory}: no root.json; run init first`)
  const roles = new Map<string, Uint8Array>()
  const known = ['root.json', 'timestamp.json', 'snapshot.json']
  for (const file of readdirSync(directory)) {
    if (!file.endsWith('.json') || known.includes(file)) continue
    roles.set(decodeURIComponent(file.slice(0, -5)), readFileSync(join(directory, file)))
  }
  return reverifySet({ root, timestamp: read('timestamp'), snapshot: read('snapshot'), roles }, 0, rules)
}

function save(set: TrustedSet): void {
  const write = (name: string, bytes: Uint8Array | undefined) => {
    if (bytes === undefined) return
    const path = join(directory, `${encodeURIComponent(name)}.json`)
    writeFileSync(`${path}.new`, bytes)
    renameSync(`${path}.new`, path)
  }
  write('root', set.root.bytes)
  write('timestamp', set.timestamp?.bytes)
  write('snapshot', set.snapshot?.bytes)
  for (const [name, file] of set.roles) write(name, file.bytes)
}

async function fetchFile(path: string, maxBytes: number): Promise<Uint8Array | undefined> {
  const answer = await fetch(`${values['metadata-url'].replace(/\/$/, '')}/${path}`)
  if (answer.status === 404 || answer.status === 403) return undefined
  if (!answer.ok) throw new FlotillaError('UNREACHABLE', `${path}: HTTP ${answer.status}`)
  return readBody(answer, maxBytes, path)
}

async function readBody(answer: Response, maxBytes: number, path: string): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  let size = 0
  for await (const part of answer.body ?? []) {
    size += part.length
    if (size > maxBytes) throw new FlotillaError('LENGTH', `${path}: more than ${maxBytes} bytes`)
    parts.push(part)
  }
  return Buffer.concat(parts)
}

async function refresh(start: TrustedSet): Promise<TrustedSet> {
  let set = start
  for (let step = 0; step < MAX_ROOTS; step += 1) {
    const bytes = await fetchFile(`${set.root.data.version + 1}.root.json`, CAPS.root)
    if (bytes === undefined) break
    set = acceptRoot(set, bytes, rules)
    save(set) // a root is committed at once
  }
  requireFreshRoot(set, rules)
  set = acceptTimestamp(set, await need('timestamp', undefined, set, CAPS.timestamp), rules)
  save(set)
  if (hasCurrentSnapshot(set))
    judgeExpiry('snapshot', set.snapshot?.data.expiresMs ?? 0, timeFloorMs(set), rules.expiry)
  else {
    const meta = set.timestamp?.data.snapshot
    set = acceptSnapshot(set, await need('snapshot', meta?.version, set, meta?.length ?? CAPS.snapshot), rules)
    save(set)
  }
  return takeRole(set, 'targets', 'root')
}

async function takeRole(set: TrustedSet, name: string, delegator: string): Promise<TrustedSet> {
  if (hasCurrentRole(set, name, delegator)) {
    judgeExpiry('targets', set.roles.get(name)?.data.expiresMs ?? 0, timeFloorMs(set), rules.expiry)
    return set
  }
  const meta = set.snapshot?.data.meta.get(name)
  if (meta === undefined) throw new FlotillaError('MISSING', `${name}: the snapshot does not list it`)
  return acceptRole(set, name, delegator, await need(name, meta.version, set, meta.length ?? CAPS.targets), rules)
}

async function need(name: string, version: number | undefined, set: TrustedSet, maxBytes: number): Promise<Uint8Array> {
  const prefix = version !== undefined && set.root.data.consistentSnapshot ? `${version}.` : ''
  const bytes = await fetchFile(`${prefix}${encodeURIComponent(name)}.json`, maxBytes)
  if (bytes === undefined) throw new FlotillaError('MISSING', `${name}: the repository does not have it`)
  return bytes
}

/** Searches the delegations in order, depth first. @see TUF specification, "5.6.7. Perform a pre-order depth-first search" */
async function findTarget(start: TrustedSet, path: string): Promise<{ set: TrustedSet; target: TargetFile }> {
  let set = start
  const stack = [{ name: 'targets', delegator: 'root' }]
  const visited = new Set<string>()
  while (stack.length > 0 && visited.size <= MAX_DELEGATIONS) {
    const role = stack.pop()
    if (role === undefined || visited.has(role.name)) continue
    visited.add(role.name)
    set = await takeRole(set, role.name, role.delegator)
    save(set)
    const data = set.roles.get(role.name)?.data
    const target = data?.targets.get(path)
    if (target !== undefined) return { set, target }
    const children = data?.delegations === undefined ? [] : rolesForPath(data.delegations, path)
    const next: { name: string; delegator: string }[] = []
    for (const child of children) {
      next.push({ name: child.name, delegator: role.name })
      if (child.terminating) {
        stack.length = 0
        break
      }
    }
    stack.push(...next.reverse())
  }
  throw new FlotillaError('NOT_FOUND', `${path}: no role signs such a file`)
}

async function download(set: TrustedSet, path: string): Promise<TrustedSet> {
  save(set)
  const { set: found, target } = await findTarget(set, path)
  save(found)
  const local = join(values['target-dir'], encodeURIComponent(path))
  if (existsSync(local)) {
    try {
      requireMatch(readFileSync(local), target, path)
      return found
    } catch {
      // another version lies there
    }
  }
  const cut = path.lastIndexOf('/') + 1
  const hash = target.sha256 ?? target.sha512 ?? ''
  const remote = found.root.data.consistentSnapshot ? `${path.slice(0, cut)}${hash}.${path.slice(cut)}` : path
  const answer = await fetch(`${values['target-base-url'].replace(/\/$/, '')}/${remote}`)
  if (!answer.ok) throw new FlotillaError('UNREACHABLE', `${path}: HTTP ${answer.status}`)
  const bytes = await readBody(answer, target.length, path)
  requireMatch(bytes, target, path)
  if (bytes.length !== target.length)
    throw new FlotillaError('LENGTH', `${path}: ${bytes.length} bytes, signed ${target.length}`)
  mkdirSync(values['target-dir'], { recursive: true })
  writeFileSync(local, bytes)
  return found
}
