import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Composition } from '../../builder/layers/compose-layers.ts'
import { formatSettings } from '../../builder/layers/kconfig-fragment.ts'
import { architectureOf, lostSettings, proveBoards, ROOT, valueOf } from './prove-boards.ts'

/**
 * `npm run test:kernels`: resolves the kernel fragments of every board on a real kernel source, which Buildroot never checks,
 * and looks for every device tree that a board names. The source is the one in LINUX_DIR, else Debian's linux-source package.
 */
const DEBIAN_SOURCE = '/usr/src/linux-source-6.12.tar.xz'
const TREES = { x86_64: '', arm64: 'arch/arm64/boot/dts', arm: 'arch/arm/boot/dts' } as const

const linux = findLinux()
proveBoards({
  step: 'kernels',
  version: execFileSync('make', ['-s', '-C', linux, 'kernelversion'], { encoding: 'utf8' }).trim(),
  symbol: 'BR2_LINUX_KERNEL',
  fragments: 'kernel',
  problems: (composition, scratch) => [
    ...missingTrees(composition),
    ...lostSettings(composition, 'kernel', configure(composition, scratch)),
  ],
})

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

function missingTrees(composition: Composition): readonly string[] {
  const trees = TREES[architectureOf(composition).arch]
  const names = valueOf(composition, 'BR2_LINUX_KERNEL_INTREE_DTS_NAME').split(' ').filter(Boolean)
  return names
    .filter((name) => !existsSync(join(linux, trees, `${name}.dts`)))
    .map((name) => `there is no device tree ${trees}/${name}.dts`)
}

/** As Buildroot does it: the default configuration, the fragments merged, what is left open by its default. */
function configure(composition: Composition, scratch: string): string {
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
  return readFileSync(join(output, '.config'), 'utf8')
}
