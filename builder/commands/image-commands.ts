import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { EXIT_CODES, FlotillaError } from '../../protocol/errors.ts'
import { makeSbom } from '../buildroot/sbom.ts'
import { runMakeOnTerminal } from '../buildroot/run-make.ts'
import { compareImages, describeDifference } from '../images/compare-images.ts'
import { layerCommand, type WhereOptions } from './layers-commands.ts'
import { configureIfStale, inWorkspace } from './prepared-workspace.ts'

/** `flotilla sbom`: what is in the images, as CycloneDX. */
export function sbomCommand(): Command {
  return layerCommand(
    'sbom',
    'the bill of materials of a choice of layers (CycloneDX): packages, licences, patches, CVEs',
  )
    .option('--output <file>', 'write it there instead of stdout')
    .addHelpText(
      'after',
      '\nNothing need be built for it.\n\nExample:\n  flotilla sbom --config pi/4 --output pi4.cdx.json',
    )
    .action((options: WhereOptions & { output?: string }) =>
      inWorkspace(options, async (prepared) => {
        await configureIfStale(prepared)
        const { place, config, variables } = prepared
        const project = { name: config.replaceAll(/[\s,]+/g, ' '), version: variables['SKIFF_VERSION'] ?? 'unknown' }
        const sbom = await makeSbom(place, project)
        if (options.output === undefined) process.stdout.write(sbom)
        else writeFileSync(options.output, sbom)
      }),
    )
}

/** `flotilla legal-info`: licences and sources, as Buildroot collects them. */
export function legalInfoCommand(): Command {
  return layerCommand('legal-info', 'collect the licences and sources of everything that goes into the images').action(
    (options: WhereOptions) =>
      inWorkspace(options, async (prepared) => {
        await configureIfStale(prepared)
        const code = await runMakeOnTerminal(prepared.place, ['legal-info'])
        if (code !== 0) throw new FlotillaError('BUILD_FAILED', `legal-info: make ended with ${code}`)
        process.stdout.write(`${join(prepared.workspace.output, 'legal-info')}\n`)
      }),
  )
}

/** `flotilla compare A B`: whether two builds are the same, and where they are not. */
export function compareCommand(): Command {
  return new Command('compare')
    .description('compare what two builds left, byte by byte; says which file differs first, also inside a squashfs')
    .argument('<a>', 'a directory of images, or one file')
    .argument('<b>')
    .option('--json', 'machine-readable output')
    .addHelpText('after', '\nExample:\n  flotilla compare workspaces/pi4/images ../other-machine/images')
    .action((a: string, b: string, options: { json?: boolean }) => {
      const difference = compareImages(a, b)
      if (options.json === true) {
        process.stdout.write(`${JSON.stringify({ same: difference === undefined, difference })}\n`)
        if (difference !== undefined) process.exitCode = EXIT_CODES.NOT_REPRODUCIBLE
      } else if (difference === undefined) process.stdout.write('the same\n')
      else throw new FlotillaError('NOT_REPRODUCIBLE', `compare ${a} with ${b}: ${describeDifference(difference)}`)
    })
}
