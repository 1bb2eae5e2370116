import { Command } from 'commander'
import { readFileSync } from 'node:fs'
import { parse, stringify } from 'yaml'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import type { ReleaseDescription } from '../../protocol/release/description.ts'
import { publicKeyOf } from '../../protocol/network/identity.ts'
import { BOOT_FAMILIES, DEFAULT_TRIAL_BOOT_SECONDS, parseTrialBootSeconds } from '../../protocol/boot/slot-files.ts'
import { shape } from '../../protocol/shape.ts'
import { boardName } from '../images/image-manifest.ts'
import { type Board, readBoard } from '../layers/board.ts'
import { openCatalogue } from '../layers/open-chain.ts'
import { createDeviceTree, enrol, type LoaderChoice } from '../release/create-device.ts'
import { composePolicy } from '../release/init-fleet.ts'
import { Repository } from '../release/repository.ts'
import { publishStaged, signStaged, stage, stagingDirectory } from '../release/staging.ts'
import { surroundings } from './layers-commands.ts'
import { firstCa, repoOption } from './fleet-commands.ts'
import { askPassphrase } from './ask.ts'

/** `flotilla device`: enrol devices and lay out what they start from. */
export function deviceCommand(): Command {
  const create = new Command('create')
    .description('enrol a device and lay out its boot area, with what its loader reads, and its persist directory')
    .argument('<dir>', 'where; must not exist')
    .argument('<release>', 'the release it starts with')
    .addOption(repoOption())
    .requiredOption('--name <name>', 'name of the device')
    .option('--config <file>', 'its agent.yaml (default: one that fits the directory, or with --for-image an image)')
    .option('--for-image', 'agent.yaml has the paths of an image, for flotilla image make')
    .option('--family <family>', `how it boots: ${BOOT_FAMILIES.join(', ')} (default: with --for-image its board's)`)
    .option('--arch <arch>', 'of a board that has no layer here: armv6, armv7, aarch64, x86_64 (default: x86_64)')
    .option('--hardware <id>', "which of the release's hardware ids this device has (default: the first)")
    .option('--no-courier', 'do not carry releases of other boards')
    .action(
      async (
        directory: string,
        releaseName: string,
        options: {
          repo: string
          name: string
          config?: string
          courier: boolean
          forImage?: boolean
          family?: string
          arch?: string
          hardware?: string
        },
      ) => {
        const repository = Repository.open(options.repo)
        const release = repository.findRelease(releaseName)
        const { board } = release.description
        const loader = loaderOf(board, options)
        const ca = firstCa(repository, await askPassphrase('the CA key'))
        const enrolment = enrol(repository, ca, {
          name: options.name,
          board,
          capabilities: options.courier ? ['sync', 'serve', 'courier'] : ['sync', 'serve'],
        })
        createDeviceTree(
          repository,
          release,
          enrolment,
          directory,
          options.config === undefined
            ? stringify({
                channel: release.description.channel,
                hardware: hardwareOf(release.description, options.hardware),
                family: loader.family,
                ...(options.forImage === true ? {} : pathsIn(directory)),
              })
            : read(options.config),
          loader,
        )
        process.stdout.write(`${enrolment.id}\n`)
        process.stderr.write(
          `device ${options.name} (${board}) in ${directory}, starts with ${release.description.version}\n`,
        )
      },
    )
  return new Command('device').description('enrol and revoke devices').addCommand(create).addCommand(revokeCommand())
}

/** What the loader's side follows from in an agent.yaml; the agent itself checks the rest of it. */
function settingsOf(file: string): { readonly family?: string; readonly trialBootSeconds?: number } {
  const json = shape.object(parse(read(file)) ?? {}, file)
  return {
    ...(json['family'] === undefined ? {} : { family: shape.string(json['family'], `${file}: family`, 32) }),
    ...(json['trialBootSeconds'] === undefined
      ? {}
      : { trialBootSeconds: parseTrialBootSeconds(json['trialBootSeconds'], `${file}: trialBootSeconds`) }),
  }
}

/** The board layer of this name, as releases write it. */
function findBoard(board: string): Board | undefined {
  const catalogue = openCatalogue(surroundings({ root: process.env['FLOTILLA_ROOT'] ?? '.' }))
  return catalogue
    .list()
    .flatMap(({ name }) => readBoard(catalogue.get(name, 'device create')) ?? [])
    .find(({ name }) => boardName(name) === board)
}

/** How a device of this board boots: as asked for, else as the board's layer says when it starts from an image. */
function loaderOf(
  board: string,
  options: { readonly family?: string; readonly arch?: string; readonly forImage?: boolean; readonly config?: string },
): LoaderChoice {
  const config = options.config === undefined ? {} : settingsOf(options.config)
  const wanted = options.family ?? config.family
  const family = BOOT_FAMILIES.find((known) => known === wanted)
  if (wanted !== undefined && family === undefined)
    throw new FlotillaError('USAGE', `create device: no such boot family: ${wanted} (${BOOT_FAMILIES.join(', ')})`)
  const trialBootSeconds = config.trialBootSeconds ?? DEFAULT_TRIAL_BOOT_SECONDS
  const found = options.forImage === true ? findBoard(board) : undefined
  if (family === undefined && options.forImage === true && found === undefined)
    throw new FlotillaError('USAGE', `create device: no layer is the board ${board}; say how it boots with --family`)
  const arch = options.arch ?? found?.arch ?? 'x86_64'
  return { family: family ?? found?.family ?? 'directory', arch, trialBootSeconds }
}

/** @throws FlotillaError BAD_INPUT for one that the release is not for */
function hardwareOf({ board, hardware }: ReleaseDescription, wanted: string | undefined): string {
  const ids = hardware.length > 0 ? hardware : [board]
  if (wanted !== undefined && !ids.includes(wanted))
    throw new FlotillaError('BAD_INPUT', `create device: the release is for ${ids.join(', ')}, not for ${wanted}`)
  return wanted ?? ids[0] ?? board
}

function pathsIn(directory: string): Readonly<Record<string, string>> {
  return {
    boot: `${directory}/boot`,
    persist: `${directory}/persist`,
    socket: `${directory}/run/agent.sock`,
    holdFile: `${directory}/run/hold`,
    healthDirectory: `${directory}/run/rootfs/etc/flotilla/health`,
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (cause) {
    throw new FlotillaError('BAD_INPUT', `read ${path}: ${messageOf(cause)}`, { cause })
  }
}

function revokeCommand(): Command {
  return new Command('revoke')
    .description('take devices out of the fleet: publishes a policy that every device hears of by gossip')
    .argument('<ids...>', 'device ids (12D3Koo…)')
    .addOption(repoOption())
    .action(async (ids: string[], options: { repo: string }) => {
      const repository = Repository.open(options.repo)
      for (const id of ids) publicKeyOf(id)
      const passphrase = await askPassphrase('the fleet and publisher keys')
      const policy = repository.policy()
      const revoked = [...new Set([...policy.revoked, ...ids])]
      stage(stagingDirectory(repository), composePolicy(repository, { ...policy, revoked }, Date.now()))
      signStaged(repository, stagingDirectory(repository), repository.openKeys('fleet', passphrase))
      publishStaged(repository, stagingDirectory(repository), {
        publishers: repository.openKeys('publisher', passphrase),
        nowMs: Date.now(),
        minRoot: undefined,
      })
      process.stderr.write(
        `published: ${revoked.length} devices are revoked; seed any device and the fleet hears of it\n`,
      )
    })
}
