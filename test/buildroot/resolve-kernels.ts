import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { checkFragments } from '../../builder/buildroot/built-programs.ts'
import { readWaivers } from '../../builder/buildroot/configure.ts'
import { readBoard } from '../../builder/layers/board.ts'
import { type ProofFile, readProofs, withProof, writeProofs } from '../../builder/layers/board-proof.ts'
import { type Composition, composeLayers } from '../../builder/layers/compose-layers.ts'
import { formatSettings } from '../../builder/layers/kconfig-fragment.ts'
import { openCatalogue, openChain } from '../../builder/layers/open-chain.ts'
import { messageOf } from '../../protocol/errors.ts'

/**
 * `npm run test:kernels`: resolves the kernel fragments of every board on a real kernel source, which Buildroot never checks,
 * and looks for every device tree that a board names. The source is the one in LINUX_DIR, else Debian's linux-source package.
 * Writes what it saw to `configs/proof.json`. Arguments are boards, in place of all.
 */
const ROOT = resolve(import.meta.dirname, '../..')
const PROOF = join(ROOT, 'configs/proof.json')
const DEBIAN_SOURCE = '/usr/src/linux-source-6.12.tar.xz'
/** Kconfig asks the compiler what it can do. */
const ARCHITECTURES = [
  { symbol: 'BR2_x86_64', arch: 'x86_64', compiler: '', trees: '' },
  { symbol: 'BR2_aarch64', arch: 'arm64', compiler: 'aarch64-linux-gnu-', trees: 'arch/arm64/boot/dts' },
  { symbol: 'BR2_arm', arch: 'arm', compiler: 'arm-linux-gnueabihf-', trees: 'arch/arm/boot/dts' },
] as const

const wanted = process.argv.slice(2)
const linux = findLinux()
const version = execFileSync('make', ['-s', '-C', linux, 'kernelversion'], { encoding: 'utf8' }).trim()
const where = { root: ROOT, skiffos: undefined, environment: {} }
const catalogue = openCatalogue(where)
const scratch = mkdtempSync(join(tmpdir(), 'flotilla-kernels-'))
let proofs: ProofFile = readProofs(PROOF)
const total = { passed: 0, failed: 0 }
try {
  for (const { name } of catalogue.list()) {
    if (wanted.length > 0 && !wanted.includes(name)) continue
    if (readBoard(catalogue.get(name, 'test:kernels')) === undefined) continue
    const config = `${name},flotilla/agent,flotilla/modules,apps/docker`
    const composition = composeLayers(openChain(where, config, 'default'))
    if (valueOf(composition, 'BR2_LINUX_KERNEL') !== 'y') continue
    let problems: readonly string[]
    try {
      problems = [...missingTrees(composition), ...lostSettings(composition)]
    } catch (error) {
      problems = [messageOf(error)]
    }
    const passed = problems.length === 0
    total[passed ? 'passed' : 'failed'] += 1
    const { size } = composition.symbols.kernel
    process.stdout.write(`${passed ? 'ok    ' : 'FAILED'} ${version}  ${name}: ${size} kernel settings\n`)
    for (const problem of problems) process.stdout.write(`       ${problem}\n`)
    proofs = withProof(proofs, name, 'kernels', version, passed)
  }
} finally {
  rmSync(scratch, { recursive: true })
}
writeProofs(PROOF, proofs)
process.stdout.write(`${total.passed} passed, ${total.failed} failed, 0 skipped\n`)
process.exitCode = total.failed === 0 && total.passed > 0 ? 0 : 1

function findLinux(): string {
  const named = process.env['LINUX_DIR']
  if (named !== undefined && named !== '') return resolve(named)
  const unpacked = join(ROOT, '.cache/linux-6.12')
  if (!existsSync(unpacked)) {
    if (!existsSync(DEBIAN_SOURCE)) {
      process.stderr.write('test:kernels: set LINUX_DIR to a kernel source, or apt-get install linux-source-6.12\n')
      process.exit(2)
    }
    process.stderr.write(`unpack ${DEBIAN_SOURCE}\n`)
    mkdirSync(`${unpacked}.new`, { recursive: true })
    execFileSync('tar', ['-xf', DEBIAN_SOURCE, '-C', `${unpacked}.new`, '--strip-components=1'])
    execFileSync('mv', [`${unpacked}.new`, unpacked])
  }
  return unpacked
}

function valueOf({ symbols }: Composition, symbol: string): string {
  return (symbols.buildroot.get(symbol)?.setting.value ?? '').replaceAll('"', '')
}

function architectureOf(composition: Composition) {
  const found = ARCHITECTURES.find(({ symbol }) => valueOf(composition, symbol) === 'y')
  if (found === undefined) throw new Error('no architecture is set')
  return found
}

function missingTrees(composition: Composition): readonly string[] {
  const { trees } = architectureOf(composition)
  const names = valueOf(composition, 'BR2_LINUX_KERNEL_INTREE_DTS_NAME').split(' ').filter(Boolean)
  return names
    .filter((name) => !existsSync(join(linux, trees, `${name}.dts`)))
    .map((name) => `there is no device tree ${trees}/${name}.dts`)
}

/** As Buildroot does it: the default configuration, the fragments merged, what is left open by its default. */
function lostSettings(composition: Composition): readonly string[] {
  const { arch, compiler } = architectureOf(composition)
  const output = join(scratch, arch)
  const fragment = join(scratch, `${arch}.config`)
  const make = (target: string) =>
    execFileSync('make', ['-s', '-C', linux, `O=${output}`, `ARCH=${arch}`, `CROSS_COMPILE=${compiler}`, target], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
  mkdirSync(output, { recursive: true })
  const named = valueOf(composition, 'BR2_LINUX_KERNEL_DEFCONFIG')
  make(named === '' ? 'defconfig' : `${named}_defconfig`)
  writeFileSync(fragment, formatSettings(composition.settings.kernel))
  const merge = join(linux, 'scripts/kconfig/merge_config.sh')
  execFileSync(merge, ['-m', '-O', output, join(output, '.config'), fragment], { cwd: linux, stdio: 'ignore' })
  make('olddefconfig')
  const waivers = readWaivers(composition)
  return checkFragments(composition, { kernel: readFileSync(join(output, '.config'), 'utf8') })
    .filter(({ setting }) => !waivers.has(setting.symbol))
    .map(({ setting, found }) => `${setting.file}:${setting.line}: ${setting.symbol}=${setting.value} is ${found}`)
}
