import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Composition } from '../../builder/layers/compose-layers.ts'
import { formatSettings } from '../../builder/layers/kconfig-fragment.ts'
import { architectureOf, lostSettings, proveBoards, valueOf } from './prove-boards.ts'

/**
 * `npm run test:uboots`: configures U-Boot for every board that has it, on the source in UBOOT_DIR: its board must exist and the
 * fragments have taken effect. With `--build` it is built with Debian's compilers (minutes for each board), and the files must be
 * there that its Buildroot settings name; firmware that goes into an image besides (BL31, SCP) is left out where it is not at hand.
 */
const named = process.env['UBOOT_DIR'] ?? ''
if (named === '') {
  process.stderr.write('test:uboots: set UBOOT_DIR to the source of the U-Boot that Buildroot builds (2025.01)\n')
  process.exit(2)
}
const uboot = resolve(named)
const isBuilt = process.argv.includes('--build')
proveBoards({
  step: 'uboots',
  version: versionOf(readFileSync(join(uboot, 'Makefile'), 'utf8')),
  symbol: 'BR2_TARGET_UBOOT_BUILD_SYSTEM_KCONFIG',
  fragments: 'uboot',
  problems: (composition, scratch) => problems(composition, join(scratch, 'uboot')),
})

function versionOf(makefile: string): string {
  const value = (name: string) => new RegExp(`^${name} = (\\S*)$`, 'm').exec(makefile)?.[1] ?? ''
  return `${value('VERSION')}.${value('PATCHLEVEL')}${value('EXTRAVERSION')}`
}

function problems(composition: Composition, output: string): readonly string[] {
  const board = valueOf(composition, 'BR2_TARGET_UBOOT_BOARD_DEFCONFIG')
  if (!existsSync(join(uboot, `configs/${board}_defconfig`))) return [`there is no configs/${board}_defconfig`]
  const { compiler } = architectureOf(composition)
  // What Buildroot gives besides, such as SCP=/dev/null.
  const options = valueOf(composition, 'BR2_TARGET_UBOOT_CUSTOM_MAKEOPTS').split(' ').filter(Boolean)
  const make = (...targets: readonly string[]) =>
    execFileSync('make', ['-s', '-C', uboot, `O=${output}`, `CROSS_COMPILE=${compiler}`, ...options, ...targets], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, BINMAN_ALLOW_MISSING: '1' },
      maxBuffer: 64 * 2 ** 20,
    })
  rmSync(output, { recursive: true, force: true })
  mkdirSync(output)
  make(`${board}_defconfig`)
  const fragment = join(output, 'layers.config')
  writeFileSync(fragment, formatSettings(composition.settings.uboot))
  const merge = join(uboot, 'scripts/kconfig/merge_config.sh')
  execFileSync(merge, ['-m', '-O', output, join(output, '.config'), fragment], { cwd: uboot, stdio: 'ignore' })
  make('olddefconfig')
  const lost = lostSettings(composition, 'uboot', readFileSync(join(output, '.config'), 'utf8'))
  if (lost.length > 0 || !isBuilt) return lost
  make('-j2')
  return imagesOf(composition)
    .filter((name) => !existsSync(join(output, name)))
    .map((name) => `${board}: the build makes no ${name}`)
}

/** Files that Buildroot would take from the build. */
function imagesOf(composition: Composition): readonly string[] {
  const names = (symbol: string) => valueOf(composition, symbol).split(' ').filter(Boolean)
  const custom = valueOf(composition, 'BR2_TARGET_UBOOT_FORMAT_CUSTOM') === 'y'
  return [
    ...(custom ? names('BR2_TARGET_UBOOT_FORMAT_CUSTOM_NAME') : ['u-boot.bin']),
    ...(valueOf(composition, 'BR2_TARGET_UBOOT_SPL') === 'y' ? names('BR2_TARGET_UBOOT_SPL_NAME') : []),
  ]
}
