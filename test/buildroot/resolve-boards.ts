import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { configureWorkspace } from '../../builder/buildroot/configure.ts'
import { type Buildroot, readBuildroot } from '../../builder/buildroot/find-buildroot.ts'
import { type BuildPlace, runMake } from '../../builder/buildroot/run-make.ts'
import { makeSbom } from '../../builder/buildroot/sbom.ts'
import { isError } from '../../builder/buildroot/strict-check.ts'
import { Workspace } from '../../builder/buildroot/workspace.ts'
import { readBoard } from '../../builder/layers/board.ts'
import { type ProofFile, readProofs, withProof, writeProofs } from '../../builder/layers/board-proof.ts'
import { composeLayers } from '../../builder/layers/compose-layers.ts'
import { openCatalogue, openChain } from '../../builder/layers/open-chain.ts'
import { messageOf } from '../../protocol/errors.ts'

/**
 * `npm run test:buildroot`: resolves every board strictly on the Buildroot in BUILDROOT_DIR and, when it is given, the one in
 * BUILDROOT_STABLE_DIR, alone and with Docker. Writes what it saw to `configs/proof.json`.
 */
const ROOT = resolve(import.meta.dirname, '../..')
const PROOF = join(ROOT, 'configs/proof.json')
const trees = [process.env['BUILDROOT_DIR'], process.env['BUILDROOT_STABLE_DIR']].filter(
  (path) => path !== undefined && path !== '',
)
if (trees.length === 0) {
  process.stderr.write('test:buildroot: set BUILDROOT_DIR to an unpacked Buildroot, BUILDROOT_STABLE_DIR to another\n')
  process.exit(2)
}
const where = { root: ROOT, skiffos: undefined, environment: {} }
const catalogue = openCatalogue(where)
const boards = catalogue.list().filter(({ name }) => readBoard(catalogue.get(name, 'test:buildroot')) !== undefined)
const scratch = mkdtempSync(join(tmpdir(), 'flotilla-boards-'))
let proofs: ProofFile = readProofs(PROOF)
const total = { passed: 0, failed: 0 }
try {
  for (const path of trees) {
    const buildroot = readBuildroot(resolve(path ?? ''), 'BUILDROOT_DIR')
    const workspace = new Workspace(scratch, buildroot.version, {})
    for (const { name } of boards) {
      const board = readBoard(catalogue.get(name, 'test:buildroot'))
      // A container has no kernel of its own, and no engine inside.
      const more = board?.family === 'container' ? '' : ',apps/docker,flotilla/modules,flotilla/init'
      const chains = [name, `${name},flotilla/agent${more}`]
      let resolved = true
      for (const config of chains) resolved = (await resolves(config, workspace, buildroot)) && resolved
      proofs = withProof(proofs, name, 'resolves', buildroot.version, resolved)
    }
  }
} finally {
  rmSync(scratch, { recursive: true })
}
writeProofs(PROOF, proofs)
process.stdout.write(`${total.passed} passed, ${total.failed} failed, 0 skipped\n`)
process.exitCode = total.failed === 0 ? 0 : 1

async function resolves(config: string, workspace: Workspace, buildroot: Buildroot): Promise<boolean> {
  try {
    const composition = composeLayers(openChain(where, config, 'default'))
    const { findings, errors } = await configureWorkspace(composition, buildroot, workspace, {})
    // Once for each Buildroot: it takes seconds, and is the same for all.
    if (config.startsWith('virt/qemu,') && config.includes('flotilla/modules')) {
      const { output, downloads } = workspace
      const place = { buildroot: buildroot.path, output, downloads, externals: composition.externals, variables: {} }
      await requireModulesImage(place)
      await requireSbom(place)
    }
    total[errors === 0 ? 'passed' : 'failed'] += 1
    process.stdout.write(
      `${errors === 0 ? 'ok    ' : 'FAILED'} ${buildroot.version}  ${config}: ${composition.symbols.buildroot.size} settings, ${errors} lost\n`,
    )
    for (const finding of findings.filter(isError))
      process.stdout.write(
        `       ${finding.setting.file}:${finding.setting.line}: ${finding.setting.symbol} ${finding.verdict}: ${finding.why}\n`,
      )
    return errors === 0
  } catch (error) {
    total.failed += 1
    process.stdout.write(`FAILED ${buildroot.version}  ${config}: ${messageOf(error)}\n`)
    return false
  }
}

/** Kconfig alone does not see whether make would build the image. */
async function requireModulesImage(place: BuildPlace): Promise<void> {
  const made = await runMake(place, ['-s', '--no-print-directory', 'printvars', 'VARS=TARGETS_ROOTFS'])
  for (const image of ['rootfs-squashfs', 'rootfs-flotilla-modules'])
    if (!made.output.includes(image)) throw new Error(`make would not build ${image}: ${made.output.trim()}`)
}

/** The bill of materials names Buildroot's own packages and ours, without a network. */
async function requireSbom(place: BuildPlace): Promise<void> {
  const sbom = JSON.parse(await makeSbom(place, { name: 'virt/qemu', version: '1' })) as {
    bomFormat: string
    components: { name: string; licenses?: { license: { id?: string } }[] }[]
  }
  const named = (name: string) => sbom.components.find((component) => component.name === name)
  if (sbom.bomFormat !== 'CycloneDX' || named('flotilla-agent') === undefined)
    throw new Error(`the SBOM lacks the agent: ${sbom.components.length} components`)
  if (named('openssh')?.licenses?.some(({ license }) => license.id !== undefined) !== true)
    throw new Error('the SBOM does not name licences by their SPDX id')
}
