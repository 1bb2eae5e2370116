import { createReadStream, existsSync, statSync } from 'node:fs'
import { Command } from 'commander'
import { FlotillaError } from '../../protocol/errors.ts'
import { formatBytes, printRows } from '../../protocol/terminal/print.ts'
import {
  type AddedImage,
  addImage,
  buildInEngine,
  listImages,
  removeImage,
  saveFromEngine,
  snapshotContainer,
} from '../containers/add-image.ts'

type Common = { images: string; json?: boolean }

/** `flotilla containers`: container images in the next release. */
export function containersCommand(): Command {
  return new Command('containers')
    .description('container images that travel with a release')
    .addCommand(addCommand())
    .addCommand(snapshotCommand())
    .addCommand(listCommand())
    .addCommand(removeCommand())
}

function command(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .requiredOption('--images <dir>', 'the directory that `release create --images` takes')
    .option('--json', 'machine-readable output')
}

function addCommand(): Command {
  return command('add', 'put an image into the next release: from the engine here, an archive, or a Dockerfile')
    .argument('<image>', 'NAME:TAG in the local engine, or a file that docker save or skopeo wrote (also OCI)')
    .option('--name <name>', 'its NAME:TAG, where the archive has none or several')
    .option('--build <dir>', "build NAME:TAG from this directory first, such as a core layer's recipe")
    .option('--build-arg <name=value...>', 'arguments of the build', [])
    .addHelpText(
      'after',
      `
Examples:
  flotilla containers add nav:2 --images workspaces/pi4/images
  flotilla containers add nav.tar --images workspaces/pi4/images
  flotilla containers add flotilla/core-debian:latest --build configs/skiff/core/root_overlay/opt/skiff/coreenv/default --images images
It is kept without compression and in a stable order: devices that have the version before fetch only what changed.`,
    )
    .action(async (image: string, options: Common & { name?: string; build?: string; buildArg: string[] }) => {
      if (options.build !== undefined) {
        const args = options.buildArg.map((item) => {
          const equals = item.indexOf('=')
          if (equals < 1) throw new FlotillaError('USAGE', `containers add: --build-arg ${item}: wanted NAME=VALUE`)
          return [item.slice(0, equals), item.slice(equals + 1)] as const
        })
        await buildInEngine(options.build, image, Object.fromEntries(args), (line) => process.stderr.write(`${line}\n`))
      }
      const isFile = options.build === undefined && existsSync(image) && statSync(image).isFile()
      const source = isFile ? async () => createReadStream(image) : () => saveFromEngine(image)
      tell(await addImage(options.images, source, options.name ?? (isFile ? undefined : image)), options)
    })
}

function snapshotCommand(): Command {
  return command('snapshot', 'put a container as it is now into the next release; its volumes are not part of it')
    .argument('<container>', 'a container of the local engine, running or not')
    .requiredOption('--as <image>', 'NAME:TAG of the image')
    .addHelpText('after', '\nExample:\n  flotilla containers snapshot old-robot --as robot:1 --images images')
    .action(async (container: string, options: Common & { as: string }) => {
      await snapshotContainer(container, options.as)
      tell(await addImage(options.images, () => saveFromEngine(options.as), options.as), options)
    })
}

function listCommand(): Command {
  return command('list', 'images that are in the next release').action(async (options: Common) => {
    const rows = [...(await listImages(options.images))].map(([file, image]) => ({ file, ...image }))
    printRows(
      rows,
      [
        ['IMAGE', ({ name }) => name],
        ['FOR', ({ architecture }) => architecture],
        ['DIGEST', ({ digest }) => digest.slice(0, 23)],
        ['FILE', ({ file }) => file],
      ],
      options,
    )
  })
}

function removeCommand(): Command {
  return command('remove', 'take an image out of the next release')
    .argument('<image>', 'NAME or NAME:TAG')
    .action((image: string, options: Common) => {
      removeImage(options.images, image)
      if (options.json === true) process.stdout.write('{}\n')
    })
}

function tell(added: AddedImage, options: Common): void {
  if (options.json === true) return void process.stdout.write(`${JSON.stringify(added)}\n`)
  const before = added.isNew ? 'a device' : 'a device with the version before'
  process.stdout.write(
    `${added.name} for ${added.architecture}, ${formatBytes(added.lengthBytes)} (${added.digest.slice(0, 23)}); ${before} fetches ${formatBytes(added.fetchBytes)}\n`,
  )
}
