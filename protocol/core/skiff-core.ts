import { toContainer, type ContainerSpec } from './container-spec.ts'
import { type YamlValue, YamlReader } from './yaml-reader.ts'

/** `skiff-core.yaml`: the containers of a device, who logs into which, and where their images come from. */
export type SkiffCore = {
  readonly containers: ReadonlyMap<string, ContainerSpec>
  readonly users: ReadonlyMap<string, UserSpec>
  readonly images: ReadonlyMap<string, ImageSpec>
  /** Containers that were taken out of the file are removed, not only stopped. */
  readonly prune: boolean
}

/** A host account whose sessions land in a container. */
export type UserSpec = {
  readonly container: string
  readonly containerUser: string | undefined
  readonly containerShell: readonly string[]
  readonly createContainerUser: boolean
  readonly auth: {
    readonly copyRootKeys: boolean
    readonly sshKeys: readonly string[]
    readonly password: string
    readonly allowEmptyPassword: boolean
    readonly locked: boolean
  }
}

/** Where an image comes from when no peer and no release has it. */
export type ImageSpec = {
  readonly pullPolicy: 'always' | 'ifnotpresent' | 'ifbuildfails' | 'never'
  readonly registry: string | undefined
  /** A file of Docker's form (`{"auths": {"registry.example": {"auth": "…"}}}`) with who may pull. */
  readonly credentials: string | undefined
  readonly build: BuildSpec | undefined
}

export type BuildSpec = {
  /** A directory on the device, a git repository, or a `.tar.gz`. */
  readonly source: string
  /** Of a git repository. */
  readonly ref: string | undefined
  /** Of a tarball. */
  readonly sha256: string | undefined
  readonly dockerfile: string
  /** Null leaves the recipe's own value. */
  readonly buildArgs: Readonly<Record<string, string | null>>
}

const MAX_LENGTH = 262_144
/** Docker's rule: two characters at least. */
const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,100}$/
const USER = /^[a-z_][a-z0-9_-]{0,31}$/
const AUTH_KEYS = ['copyRootKeys', 'sshKeys', 'password', 'allowEmptyPassword', 'locked'] as const
/** SkiffOS's program reads `pullPolicy`, all its files write `policy`. */
const POLICIES = { ifnotexists: 'ifnotpresent' } as const

/**
 * Parses `skiff-core.yaml`, SkiffOS's format with what its users miss.
 * @param lenient - a file of SkiffOS or its users: unknown keys are warnings
 * @returns warnings: what is odd and was read all the same
 * @throws FlotillaError BAD_CONFIG with file, line, column and the line itself
 * @see facts/skiffos.md 5.2
 */
export function parseSkiffCore(
  text: string,
  file: string,
  { lenient = false } = {},
): { readonly core: SkiffCore; readonly warnings: readonly string[] } {
  const reader = new YamlReader(text, file, lenient, MAX_LENGTH)
  const top = reader.keys(reader.root, ['containers', 'users', 'images', 'prune'])
  const named = <T>(value: YamlValue, pattern: RegExp, read: (value: YamlValue) => T): ReadonlyMap<string, T> =>
    new Map(
      [...reader.entries(value)].map(([name, entry]) => {
        if (!pattern.test(name)) reader.fail(entry.key, `${entry.key?.path}: not a name`)
        return [name, read(entry.value ?? entry.key)]
      }),
    )
  const core = {
    containers: named(top('containers'), NAME, (value) => toContainer(reader, value)),
    users: named(top('users'), USER, (value) => toUser(reader, value)),
    images: named(top('images'), /^[\w./:@-]{1,256}$/, (value) => toImage(reader, value)),
    prune: reader.flag(top('prune')),
  }
  requireKnown(reader, core, top('containers'), top('users'))
  return { core, warnings: reader.warnings }
}

function toUser(reader: YamlReader, value: YamlValue): UserSpec {
  const known = ['container', 'containerUser', 'containerShell', 'createContainerUser', 'auth'] as const
  const key = reader.keys(value, known)
  const container = key('container')
  if (container === undefined) reader.fail(value, `${value?.path}: container is missing`)
  const auth = reader.keys(key('auth'), AUTH_KEYS)
  const password = reader.optionalText(auth('password')) ?? ''
  const allowEmptyPassword = reader.flag(auth('allowEmptyPassword'))
  return {
    container: reader.text(container),
    containerUser: reader.optionalText(key('containerUser')),
    containerShell: key('containerShell') === undefined ? ['/bin/sh'] : reader.textOrTexts(key('containerShell')),
    createContainerUser: reader.flag(key('createContainerUser')),
    auth: {
      copyRootKeys: reader.flag(auth('copyRootKeys')),
      sshKeys: reader.texts(auth('sshKeys')),
      password,
      allowEmptyPassword,
      locked: reader.flag(auth('locked')),
    },
  }
}

function toImage(reader: YamlReader, value: YamlValue): ImageSpec {
  const key = reader.keys(value, ['pull', 'build'])
  const pull = reader.keys(key('pull'), ['pullPolicy', 'policy', 'registry', 'credentials'])
  const policy = pull('pullPolicy') ?? pull('policy')
  const [one, other] = [pull('pullPolicy'), pull('policy')].map((found) => reader.optionalText(found))
  if (one !== undefined && other !== undefined && one !== other)
    reader.fail(pull('policy'), `${value?.path}.pull: pullPolicy says ${one}, policy says ${other}`)
  const words = ['always', 'ifnotpresent', 'ifnotexists', 'ifbuildfails', 'never'] as const
  const word = policy === undefined ? 'ifnotpresent' : reader.oneOf(policy, words)
  return {
    pullPolicy: word === 'ifnotexists' ? POLICIES[word] : word,
    registry: reader.optionalText(pull('registry')),
    credentials: reader.optionalText(pull('credentials')),
    build: key('build') === undefined ? undefined : toBuild(reader, key('build')),
  }
}

function toBuild(reader: YamlReader, value: YamlValue): BuildSpec {
  const known = ['source', 'ref', 'sha256', 'dockerfile', 'root', 'buildArgs'] as const
  // They change nothing any more: SkiffOS's program reads them too.
  const spent = ['preserveIntermediate', 'squash', 'scratchBuild'] as const
  const key = reader.keys(value, [...known, ...spent])
  for (const name of spent) reader.flag(key(name))
  const source = key('source')
  if (source === undefined) reader.fail(value, `${value?.path}: source is missing`)
  const sha256 = reader.optionalText(key('sha256'))
  if (sha256 !== undefined && !/^[0-9a-f]{64}$/.test(sha256))
    reader.fail(key('sha256'), `${value?.path}.sha256: wanted 64 hexadecimal digits`)
  return {
    source: reader.text(source),
    ref: reader.optionalText(key('ref')),
    sha256,
    dockerfile: reader.optionalText(key('dockerfile')) ?? 'Dockerfile',
    buildArgs: reader.pairs(key('buildArgs')),
  }
}

/** Names that must be there, and no container waits for itself. */
function requireKnown(
  reader: YamlReader,
  { containers, users }: SkiffCore,
  containersAt: YamlValue,
  usersAt: YamlValue,
): void {
  const keyOf = (map: YamlValue, name: string) => reader.entries(map).get(name)?.key
  for (const [name, { container }] of users)
    if (!containers.has(container))
      reader.fail(keyOf(usersAt, name), `users.${name}: there is no container ${container}`)
  for (const [name, { dependsOn }] of containers)
    for (const other of dependsOn)
      if (!containers.has(other))
        reader.fail(keyOf(containersAt, name), `containers.${name}.dependsOn: there is no container ${other}`)
  for (const name of containers.keys()) {
    const seen = new Set<string>()
    const waitsFor = (one: string): boolean => {
      if (seen.has(one)) return false
      seen.add(one)
      return (containers.get(one)?.dependsOn ?? []).some((other) => other === name || waitsFor(other))
    }
    if (waitsFor(name)) reader.fail(keyOf(containersAt, name), `containers.${name}.dependsOn: it waits for itself`)
  }
}
