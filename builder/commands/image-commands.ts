import { statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { EXIT_CODES, FlotillaError } from '../../protocol/errors.ts'
import { bar, formatBytes, LiveView } from '../../protocol/terminal/print.ts'
import { makeSbom } from '../buildroot/sbom.ts'
import { runMakeOnTerminal } from '../buildroot/run-make.ts'
import { compareImages, describeDifference } from '../images/compare-images.ts'
import { boardName, MANIFEST, readManifest } from '../images/image-manifest.ts'
import { type Medium, readMedium, readTable, requireWritable, writeMedium } from '../images/medium.ts'
import { type ByteRange, planInstall } from '../images/plan-install.ts'
import { writeDiskImage } from '../images/write-disk-image.ts'
import { type Board, readBoard } from '../layers/board.ts'
import { openCatalogue } from '../layers/open-chain.ts'
import { layerCommand, surroundings, type WhereOptions } from './layers-commands.ts'
import { ask } from './ask.ts'
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

type MakeOptions = WhereOptions & {
  device: string
  images: string
  board?: string
  bootSize?: string
  size?: string
}

/** `flotilla image`: disk images of devices, and onto media. */
export function imageCommand(): Command {
  return new Command('image')
    .description('disk images: make one of a device that was laid out, write it to a card or disk')
    .addCommand(makeCommand())
    .addCommand(writeCommand())
    .addCommand(installCommand())
}

function makeCommand(): Command {
  return layerCommand('make', 'a disk image of a device: boot loader, boot area with its release, identity')
    .argument('<file>', 'made anew')
    .requiredOption('--device <dir>', 'what flotilla device create laid out')
    .requiredOption('--images <dir>', 'what flotilla compile left: boot loader and boot files are taken from there')
    .option('--board <layer>', 'the board, such as pi/4 (default: what the images were built for)')
    .option('--boot-size <MiB>', 'of the boot partition (default: room for three releases)')
    .option('--size <MiB>', 'of the whole image (default: as small as it can be; persist grows on the device)')
    .addHelpText(
      'after',
      `
Needs no root. The last partition, persist, grows to the medium when the device boots first. What its boot loader is told
(entries, scripts, boot records) was laid out by flotilla device create.

Example:
  flotilla device create robot-3 pi-4@2026.11.2 --name robot-3 --for-image
  flotilla image make robot-3.img --device robot-3 --images workspaces/pi4/images`,
    )
    .action((file: string, options: MakeOptions) => {
      const board = boardOf(options)
      if (board.layout === undefined)
        throw new FlotillaError(
          'BAD_INPUT',
          `make image: no disk image is made for ${board.name}; its layer has no layout`,
        )
      const mebibytes = (text: string | undefined, what: string) => {
        if (text === undefined) return undefined
        if (!/^\d{1,9}$/.test(text))
          throw new FlotillaError('USAGE', `make image: ${what} ${text} is not a whole number`)
        return Number(text) * 2 ** 20
      }
      const plan = writeDiskImage({
        layout: board.layout,
        efi: board.family === 'systemd-boot',
        device: options.device,
        images: options.images,
        file,
        bootPartitionBytes: mebibytes(options.bootSize, '--boot-size'),
        totalBytes: mebibytes(options.size, '--size'),
      })
      if (options.json === true) process.stdout.write(`${JSON.stringify({ file, ...plan }, null, 2)}\n`)
      else
        process.stdout.write(
          `${file}: ${formatBytes(plan.lengthBytes)}, ${plan.partitions.map(({ name, lengthBytes }) => `${name} ${formatBytes(lengthBytes)}`).join(', ')}\n`,
        )
    })
}

function boardOf(options: MakeOptions): Board {
  const catalogue = openCatalogue(surroundings(options))
  const manifest = options.board === undefined ? readManifest(options.images) : undefined
  const boards = catalogue.list().flatMap(({ name }) => readBoard(catalogue.get(name, 'image make')) ?? [])
  const found = boards.find(({ name }) => name === options.board || boardName(name) === manifest?.board)
  if (found !== undefined) return found
  if (options.board !== undefined)
    throw new FlotillaError('NOT_FOUND', `make image: ${options.board} is not a board; see flotilla boards`)
  throw new FlotillaError('USAGE', `make image: ${options.images} has no ${MANIFEST} of flotilla compile; say --board`)
}

function writeCommand(): Command {
  return new Command('write')
    .description('write an image to a card or disk, and read it back')
    .argument('<image>')
    .argument('<device>', 'a whole disk, such as /dev/sdb; everything on it is lost')
    .option('--yes', 'do not ask')
    .addHelpText(
      'after',
      '\nA disk that is mounted, used or too small is refused.\n\nExample:\n  flotilla image write robot-3.img /dev/sdb',
    )
    .action(async (image: string, device: string, options: { yes?: boolean }) => {
      const medium = readMedium(device)
      requireWritable(medium, sizeOfImage(image))
      const what = describeMedium(medium)
      if (options.yes !== true) await confirmLoss(`everything on ${what}`, medium.path)
      writeWithProgress(image, medium.path, undefined)
      process.stdout.write(`${image} is on ${what}, read back and the same\n`)
    })
}

function installCommand(): Command {
  return new Command('install')
    .description(
      'put the boot loader and boot area of an image onto a medium that has them; its persist partition stays',
    )
    .argument('<image>')
    .argument('<device>', 'a whole disk that was written with flotilla image write, such as /dev/sdb')
    .option('--yes', 'do not ask')
    .addHelpText(
      'after',
      `
For a device that does not start any more, or to put another release onto a card by hand: identity, containers and data stay
what they are, since the partition with them is not touched. A disk that is mounted or laid out otherwise is refused. Ended
in the middle, it can be done again.

Example:
  flotilla image install robot-3.img /dev/sdb`,
    )
    .action(async (image: string, device: string, options: { yes?: boolean }) => {
      sizeOfImage(image)
      const medium = readMedium(device)
      const ranges = planInstall(readTable(image), readTable(medium.path))
      requireWritable(medium, Math.max(...ranges.map(({ toBytes }) => toBytes)))
      const what = describeMedium(medium)
      if (options.yes !== true) await confirmLoss(`what ${what} boots (not its persist partition)`, medium.path)
      writeWithProgress(image, medium.path, ranges)
      process.stdout.write(`the boot area of ${image} is on ${what}, read back and the same; persist was not touched\n`)
    })
}

function sizeOfImage(image: string): number {
  const { size } = statSync(image, { throwIfNoEntry: false }) ?? {}
  if (size === undefined) throw new FlotillaError('NOT_FOUND', `write ${image}: there is no such file`)
  return size
}

function describeMedium({ path, model, lengthBytes }: Medium): string {
  return `${path} ${model} ${formatBytes(lengthBytes)}`.replaceAll(/ +/g, ' ')
}

function writeWithProgress(image: string, path: string, ranges: readonly ByteRange[] | undefined): void {
  const view = new LiveView()
  let shown = -1
  writeMedium(image, path, ranges, (share) => {
    const percent = Math.floor(share * 100)
    if (percent === shown || (!process.stderr.isTTY && percent % 10 !== 0)) return
    shown = percent
    view.draw([`${bar(percent, 30)} ${percent} %  ${percent < 50 ? 'writing' : 'reading back'}`])
  })
}

/** @throws FlotillaError USAGE where nobody can be asked, ON_HOLD when the answer is another */
async function confirmLoss(what: string, path: string): Promise<void> {
  const question = `${what} will be lost; type ${path} to go on: `
  const answer = await ask(question, 'write: there is no terminal to ask on; say --yes')
  if (answer !== path) throw new FlotillaError('ON_HOLD', 'write: not confirmed; nothing was written')
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
