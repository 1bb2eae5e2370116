import { createHash, randomBytes } from 'node:crypto'
import { constants, copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { firstBootRecords } from '../../protocol/boot/boot-record.ts'
import { placeOf, PROVEN_MARKER, SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import { type Capability, signCertificate } from '../../protocol/membership/certificate.ts'
import { identityFromSeed } from '../../protocol/network/identity.ts'
import { encodeBundle } from '../../protocol/network/metadata-exchange.ts'
import { type Release, shortId } from '../../protocol/release/description.ts'
import type { SigningKey } from './key-file.ts'
import type { Repository } from './repository.ts'

/** A new member: its secret and the certificate that admits it. */
export type Enrolment = { readonly id: string; readonly seed: Uint8Array; readonly certificate: Uint8Array }

/** Signs a certificate for a device key. */
export function enrol(
  repository: Repository,
  ca: SigningKey,
  device: { readonly name: string; readonly board: string; readonly capabilities: readonly Capability[] },
  seed: Uint8Array = randomBytes(32),
): Enrolment {
  const { id } = identityFromSeed(seed)
  const policy = repository.policy()
  if (!policy.caKeys.includes(ca.publicHex))
    throw new FlotillaError('BAD_INPUT', `enrol ${device.name}: key ${ca.name} is not a CA of this fleet's policy`)
  const certificate = { fleet: repository.fleet, device: id, ...device, serial: Date.now(), epoch: policy.minEpoch }
  return { id, seed, certificate: signCertificate(certificate, ca.publicHex, ca.sign) }
}

/**
 * Lays out a device of the `directory` boot family: `boot/` with the release proven in its slot, `persist/` with
 * identity, certificate and the complete current metadata, `agent.yaml`. What a factory, or a simulated fleet, flashes.
 */
export function createDeviceTree(
  repository: Repository,
  release: Release,
  enrolment: Enrolment,
  target: string,
  config: string,
): void {
  if (existsSync(target)) throw new FlotillaError('ALREADY_EXISTS', `create device ${target}: it exists`)
  const slot = join(target, 'boot', SLOTS_DIRECTORY, shortId(release.id))
  const persist = join(target, 'persist')
  for (const artifact of release.description.artifacts) {
    const place = placeOf(release.id, artifact)
    const path = join(target, place.area, place.path)
    mkdirSync(dirname(path), { recursive: true })
    copyFileSync(repository.artifactPath(artifact.sha256), path, constants.COPYFILE_FICLONE)
  }
  writeFileSync(join(slot, 'description.json'), release.bytes)
  writeFileSync(join(slot, PROVEN_MARKER), '')
  for (const { path, bytes } of firstBootRecords(shortId(release.id))) writeFileSync(join(target, 'boot', path), bytes)
  // Stable over releases, and the same when the medium is made anew: who it is in the fleet is who it is to systemd.
  const machineId = createHash('sha256').update(`flotilla machine-id\n${enrolment.id}`).digest('hex').slice(0, 32)
  writeFileSync(join(target, 'boot/machine-id'), `${machineId}\n`)
  writeTrust(repository, release, persist)
  writeFileSync(join(persist, 'identity.key'), enrolment.seed, { mode: 0o600 })
  writeFileSync(join(persist, 'certificate.json'), enrolment.certificate)
  writeFileSync(join(target, 'agent.yaml'), config)
}

// The layout that protocol/spec/slots.md and trust.md lay down; the agent reads it, a test boots what this writes.
function writeTrust(repository: Repository, release: Release, persist: string): void {
  for (const directory of ['trust/root', 'blobs', 'log']) mkdirSync(join(persist, directory), { recursive: true })
  repository.roots().forEach((root, at) => writeFileSync(join(persist, 'trust', 'root', `${at + 1}.json`), root))
  const bundle = encodeBundle({ ...repository.bundle(), roots: [] })
  const hash = createHash('sha256').update(bundle).digest('hex')
  writeFileSync(join(persist, 'trust', 'set'), Buffer.concat([Buffer.from(`${hash}\n`), bundle]))
  writeFileSync(join(persist, 'trust', 'built'), String(Date.parse(release.description.issued)))
  for (const sha256 of [release.id, ...release.description.artifacts.map((artifact) => artifact.index.sha256)]) {
    const bytes = repository.readBlob(sha256)
    if (bytes !== undefined) writeFileSync(join(persist, 'blobs', sha256), bytes)
  }
}
