import { createHash, randomBytes } from 'node:crypto'
import { constants, copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import {
  type BootFamily,
  COMMAND_LINE_ARTIFACT,
  describeSlotBoot,
  type SlotBoot,
  slotFiles,
  readsSlotFiles,
} from '../../protocol/boot/slot-files.ts'
import { placeOf, PROVEN_MARKER, SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import { type Capability, signCertificate } from '../../protocol/membership/certificate.ts'
import { identityFromSeed } from '../../protocol/network/identity.ts'
import { encodeBundle } from '../../protocol/network/metadata-exchange.ts'
import { type Release, shortId } from '../../protocol/release/description.ts'
import { loaderFiles } from '../loaders/loader-files.ts'
import type { SigningKey } from './key-file.ts'
import type { Repository } from './repository.ts'

/** A new member: its secret and the certificate that admits it. */
export type Enrolment = { readonly id: string; readonly seed: Uint8Array; readonly certificate: Uint8Array }

/** How a device boots, and the architecture of its board as board.yaml names it. */
export type LoaderChoice = { readonly family: BootFamily; readonly arch: string; readonly trialBootSeconds: number }

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
 * Lays out a device: `boot/` with the release proven in its slot and what its loader reads, `persist/` with identity,
 * certificate and the complete current metadata, `agent.yaml`. What a factory, or a simulated fleet, flashes.
 * @param loader - how it boots, the architecture of its board, and how long a trial boot may take before its checks begin
 * @throws FlotillaError ALREADY_EXISTS, NOT_FOR_THIS_DEVICE, BAD_INPUT
 */
export function createDeviceTree(
  repository: Repository,
  release: Release,
  enrolment: Enrolment,
  target: string,
  config: string,
  loader: LoaderChoice,
): void {
  if (existsSync(target)) throw new FlotillaError('ALREADY_EXISTS', `create device ${target}: it exists`)
  const slotBoot = readsSlotFiles(loader.family) ? describeBoot(repository, release, loader) : undefined
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
  if (slotBoot !== undefined)
    for (const { name, bytes } of slotFiles(loader.family, slotBoot)) writeFileSync(join(slot, name), bytes)
  for (const { path, bytes } of loaderFiles(loader.family, shortId(release.id), slotBoot, loader.arch)) {
    mkdirSync(dirname(join(target, 'boot', path)), { recursive: true })
    writeFileSync(join(target, 'boot', path), bytes)
  }
  // Stable over releases, and the same when the medium is made anew: who it is in the fleet is who it is to systemd.
  const machineId = createHash('sha256').update(`flotilla machine-id\n${enrolment.id}`).digest('hex').slice(0, 32)
  writeFileSync(join(target, 'boot/machine-id'), `${machineId}\n`)
  writeTrust(repository, release, persist)
  writeFileSync(join(persist, 'identity.key'), enrolment.seed, { mode: 0o600 })
  writeFileSync(join(persist, 'certificate.json'), enrolment.certificate)
  writeFileSync(join(target, 'agent.yaml'), config)
}

/** The same as the agent writes into the slot of a release that it installs. */
function describeBoot(repository: Repository, { id, description }: Release, loader: LoaderChoice): SlotBoot {
  const artifact = description.artifacts.find(({ name }) => name === COMMAND_LINE_ARTIFACT)
  const commandLine = artifact === undefined ? '' : readFileSync(repository.artifactPath(artifact.sha256), 'latin1')
  return describeSlotBoot(loader.family, shortId(id), description, commandLine, loader.trialBootSeconds)
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
