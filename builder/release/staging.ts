import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { FlotillaError } from '../../protocol/errors.ts'
import { parseJson, shape } from '../../protocol/shape.ts'
import { ed25519KeyJson, keyIdOf } from '../../protocol/trust/public-key.ts'
import { type MetadataJson, metadataBytes, signMetadata } from './compose-metadata.ts'
import type { SigningKey } from './key-file.ts'
import { publishRoles, type PublishOptions } from './publish.ts'
import { type Repository, writeDurably } from './repository.ts'
import { summarizeChange } from './summarize.ts'

/** Roles that wait for signatures, as ordinary TUF JSON in a directory that can travel on a stick. */
export type Staged = ReadonlyMap<string, MetadataJson>

/** Where a repository stages. */
export function stagingDirectory(repository: Repository): string {
  return join(repository.path, 'staging')
}

/** Writes unsigned or partly signed roles; what was staged before for the same roles is replaced. */
export function stage(directory: string, roles: Staged): void {
  mkdirSync(directory, { recursive: true })
  for (const [name, json] of roles) writeDurably(join(directory, `${name}.json`), metadataBytes(json))
}

/** @throws FlotillaError NOT_FOUND when nothing is staged, FORMAT */
export function readStaged(directory: string): Staged {
  const staged = new Map<string, MetadataJson>()
  for (const file of existsSync(directory) ? readdirSync(directory).sort() : []) {
    if (!file.endsWith('.json')) continue
    const json = shape.object(parseJson(readFileSync(join(directory, file)), file, 1_048_576), file)
    const signed = shape.object(json['signed'], `${file}: signed`)
    const signatures = shape.array(json['signatures'], `${file}: signatures`, 16).map((item) => {
      const signature = shape.object(item, `${file}: signatures[]`)
      return {
        keyid: shape.hex32(signature['keyid'], `${file}: keyid`),
        sig: shape.string(signature['sig'], `${file}: sig`, 128),
      }
    })
    const version = shape.integer(signed['version'], `${file}: version`, 1)
    const expires = shape.string(signed['expires'], `${file}: expires`, 32)
    staged.set(file.slice(0, -5), { signed: { ...signed, version, expires }, signatures })
  }
  if (staged.size === 0)
    throw new FlotillaError(
      'NOT_FOUND',
      `read staging ${directory}: nothing waits for signatures; begin with \`flotilla release prepare\``,
    )
  return staged
}

/** What a signer should read aloud before signing. */
export function summarizeStaged(repository: Repository, staged: Staged): readonly string[] {
  return [...staged].flatMap(([name, json]) => [
    ...summarizeChange(name, repository.currentRole(name), json),
    ...describeSignatures(repository, staged, name),
  ])
}

function describeSignatures(repository: Repository, staged: Staged, name: string): string[] {
  const signers = signersOf(repository, staged, name)
  const signed = staged.get(name)?.signatures.filter(({ keyid }) => signers.keyIds.includes(keyid)).length ?? 0
  return [`  ${signed} of ${signers.threshold} signatures`]
}

/** Which keys may sign a staged role. */
export function signersOf(
  repository: Repository,
  staged: Staged,
  name: string,
): { readonly keyIds: readonly string[]; readonly threshold: number } {
  const find = (holder: MetadataJson | undefined, role: string) => {
    const roles = holder?.signed['roles'] as
      | Readonly<Record<string, { keyids: string[]; threshold: number }>>
      | undefined
    return roles?.[role]
  }
  if (name === 'root') {
    // The old root's keys and the new one's own.
    const roots = [repository.currentRole('root'), staged.get('root')].map((root) => find(root, 'root'))
    return {
      keyIds: roots.flatMap((role) => role?.keyids ?? []),
      threshold: Math.max(...roots.map((role) => role?.threshold ?? 0)),
    }
  }
  const root = staged.get('root') ?? repository.currentRole('root')
  if (name === 'targets') return toSigners(find(root, 'targets'))
  const targets = staged.get('targets') ?? repository.currentRole('targets')
  const delegations = targets?.signed['delegations'] as
    | { roles?: { name: string; keyids: string[]; threshold: number }[] }
    | undefined
  return toSigners(delegations?.roles?.find((role) => role.name === name))
}

function toSigners(role: { keyids: string[]; threshold: number } | undefined) {
  return { keyIds: role?.keyids ?? [], threshold: role?.threshold ?? Infinity }
}

/**
 * Adds the signatures that the given keys may give. @returns names of the roles that were signed
 */
export function signStaged(repository: Repository, directory: string, keys: readonly SigningKey[]): readonly string[] {
  const staged = readStaged(directory)
  const signedNames: string[] = []
  for (const [name, json] of staged) {
    const { keyIds } = signersOf(repository, staged, name)
    const usable = keys.filter((key) => keyIds.includes(keyIdOf(ed25519KeyJson(key.publicHex))))
    if (usable.length === 0) continue
    writeDurably(join(directory, `${name}.json`), metadataBytes(signMetadata(json, usable)))
    signedNames.push(name)
  }
  return signedNames
}

/** Takes the signatures of another copy of the same staging. @throws FlotillaError MIX_AND_MATCH when the contents differ */
export function mergeStaged(directory: string, other: string): readonly string[] {
  const mine = readStaged(directory)
  const merged: string[] = []
  for (const [name, theirs] of readStaged(other)) {
    const json = mine.get(name)
    if (json === undefined) continue
    if (
      Buffer.compare(
        metadataBytes({ signed: json.signed, signatures: [] }),
        metadataBytes({ signed: theirs.signed, signatures: [] }),
      ) !== 0
    ) {
      throw new FlotillaError('MIX_AND_MATCH', `merge ${name}: ${other} signs something else than what is staged here`)
    }
    const added = theirs.signatures.filter(
      ({ keyid }) => !json.signatures.some((signature) => signature.keyid === keyid),
    )
    writeDurably(
      join(directory, `${name}.json`),
      metadataBytes({ signed: json.signed, signatures: [...json.signatures, ...added] }),
    )
    merged.push(name)
  }
  return merged
}

/** Publishes what is staged, then empties the staging. @see publishRoles */
export function publishStaged(repository: Repository, directory: string, options: PublishOptions): void {
  publishRoles(repository, readStaged(directory), options)
  rmSync(directory, { recursive: true, force: true })
  mkdirSync(directory, { recursive: true })
}
