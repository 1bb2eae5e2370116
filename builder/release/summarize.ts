import type { MetadataJson } from './compose-metadata.ts'

/**
 * What a signature on `after` says, in words a person can check before signing: what changes against `before`. Pure.
 */
export function summarizeChange(
  name: string,
  before: MetadataJson | undefined,
  after: MetadataJson,
  notes: readonly string[] = [],
): readonly string[] {
  const lines = [
    `${name} metadata: version ${before?.signed.version ?? 'none'} → ${after.signed.version}, valid until ${after.signed.expires}`,
  ]
  lines.push(...differences('key', record(before, 'keys'), record(after, 'keys'), describeKey))
  lines.push(...differences('role', record(before, 'roles'), record(after, 'roles'), describeRole))
  const delegations = (metadata: MetadataJson | undefined) =>
    (metadata?.signed['delegations'] ?? {}) as { keys?: object; roles?: { name: string }[] }
  lines.push(
    ...differences('delegation key', { ...delegations(before).keys }, { ...delegations(after).keys }, describeKey),
  )
  const byName = (metadata: MetadataJson | undefined) =>
    Object.fromEntries((delegations(metadata).roles ?? []).map((role) => [role.name, role]))
  lines.push(...differences('delegation', byName(before), byName(after), describeRole))
  lines.push(...differences('file', record(before, 'targets'), record(after, 'targets'), describeFile))
  if (before?.signed['x-era'] !== after.signed['x-era'] && after.signed['x-era'] !== undefined)
    lines.push(
      `  era ${before?.signed['x-era'] ?? 'none'} → ${after.signed['x-era']}: releases of older eras are refused from now on`,
    )
  return [...lines, ...notes.map((note) => `  ${note}`)]
}

function record(metadata: MetadataJson | undefined, member: string): Readonly<Record<string, unknown>> {
  return (metadata?.signed[member] ?? {}) as Readonly<Record<string, unknown>>
}

function differences(
  kind: string,
  before: Readonly<Record<string, unknown>>,
  after: Readonly<Record<string, unknown>>,
  describe: (value: unknown) => string,
): string[] {
  const lines: string[] = []
  for (const [name, value] of Object.entries(after)) {
    if (before[name] === undefined) lines.push(`  adds ${kind} ${shorten(name)}: ${describe(value)}`)
    else if (JSON.stringify(before[name]) !== JSON.stringify(value))
      lines.push(`  changes ${kind} ${shorten(name)}: ${describe(before[name])} → ${describe(value)}`)
  }
  for (const [name, value] of Object.entries(before))
    if (after[name] === undefined) lines.push(`  REMOVES ${kind} ${shorten(name)}: ${describe(value)}`)
  return lines
}

function shorten(name: string): string {
  return /^[0-9a-f]{64}$/.test(name) ? name.slice(0, 12) : name
}

function describeKey(value: unknown): string {
  return `Ed25519 ${(value as { keyval: { public: string } }).keyval.public.slice(0, 16)}…`
}

function describeRole(value: unknown): string {
  const role = value as { keyids: string[]; threshold: number; paths?: string[] }
  return `${role.threshold} of ${role.keyids.length} (${role.keyids.map(shorten).join(', ')})${role.paths === undefined ? '' : ` for ${role.paths.join(', ')}`}`
}

function describeFile(value: unknown): string {
  const file = value as {
    length: number
    hashes: { sha256: string }
    custom?: { flotilla?: { halted?: { reason: string; recall: boolean }; openWaves?: number } }
  }
  const { halted, openWaves } = file.custom?.flotilla ?? {}
  const orders = [
    ...(halted === undefined ? [] : [`${halted.recall ? 'HALTED AND RECALLED' : 'HALTED'}: ${halted.reason}`]),
    ...(openWaves === undefined ? [] : [`waves below ${openWaves} are open`]),
  ]
  return [`${file.length} bytes, sha256 ${file.hashes.sha256.slice(0, 16)}…`, ...orders].join(', ')
}
