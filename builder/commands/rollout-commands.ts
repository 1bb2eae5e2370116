import { Command } from 'commander'
import { FlotillaError } from '../../protocol/errors.ts'
import { waveCount } from '../../protocol/rollout/rollout-plan.ts'
import { orderRollout, type RolloutOrder } from '../release/order-rollout.ts'
import { Repository } from '../release/repository.ts'
import { readStaged, stage, stagingDirectory, summarizeStaged } from '../release/staging.ts'
import { tellDevice } from '../seed/tell-device.ts'
import { firstCa, repoOption } from './fleet-commands.ts'
import { confirm } from './ask.ts'
import { signAndPublish } from './sign-and-publish.ts'

type Common = {
  repo: string
  prepare?: boolean
  yes?: boolean
  tell?: string
  interface: string[]
  timeout: string
}

function command(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .argument('<release>', 'id (or its beginning), board@version, board/channel, or board')
    .addOption(repoOption())
    .option('--prepare', 'only stage it, for `release sign` and `release publish`')
    .option('--yes', 'do not ask')
    .option('--tell <device>', 'hand it to this device; the fleet does the rest')
    .option('--interface <names...>', 'look for the device on these links only', [])
    .option('--timeout <seconds>', 'give up telling after', '60')
}

/** `flotilla release halt`: no device boots the release any more. */
export function haltCommand(): Command {
  return command('halt', 'stop a release: no device boots it any more, what is staged is disarmed')
    .requiredOption('--reason <text>', 'what devices and people are told')
    .option('--recall', 'devices that run it go back to the release they ran before')
    .addHelpText(
      'after',
      `
It overtakes the release, and devices do not forget it. The same content can be published again under a higher sequence.
Example:
  flotilla release halt pi-4@2026.12 --reason 'gripper drifts' --recall --tell robot-3`,
    )
    .action(async (name: string, options: Common & { reason: string; recall?: boolean }) => {
      const halted = { reason: options.reason.slice(0, 200), recall: options.recall === true }
      await order(name, { halted }, options)
    })
}

/** `flotilla release open`: waves need not wait any longer. */
export function openCommand(): Command {
  return command('open', 'open waves of a release whatever was heard of those before')
    .option('--waves <n>', 'the first n waves, canaries included (default: all)')
    .addHelpText('after', '\nExample:\n  flotilla release open pi-4@2026.12 --waves 2 --tell robot-3')
    .action(async (name: string, options: Common & { waves?: string }) => {
      const count = waveCount(Repository.open(options.repo).findRelease(name).description.rollout)
      const openWaves = options.waves === undefined ? count : Number(options.waves)
      if (!Number.isSafeInteger(openWaves) || openWaves < 1 || openWaves > count)
        throw new FlotillaError('USAGE', `open: --waves ${options.waves} is not from 1 to ${count}`)
      await order(name, { openWaves }, options)
    })
}

async function order(name: string, what: RolloutOrder, options: Common): Promise<void> {
  const repository = Repository.open(options.repo)
  const release = repository.findRelease(name)
  const staging = stagingDirectory(repository)
  stage(staging, orderRollout(repository, release, what, Date.now()))
  for (const line of summarizeStaged(repository, readStaged(staging))) process.stderr.write(`${line}\n`)
  if (options.prepare === true)
    return void process.stdout.write('staged; sign it with `flotilla release sign`, then publish it\n')
  await confirm('Sign and publish this?', options.yes === true)
  await signAndPublish(repository)
  process.stdout.write('published\n')
  if (options.tell === undefined) return
  const ca = () => firstCa(repository, process.env['FLOTILLA_PASSPHRASE'])
  const told = await tellDevice(repository, ca, options.tell, options.interface, Number(options.timeout) * 1_000)
  process.stdout.write(`${told} has it\n`)
}
