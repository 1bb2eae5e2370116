import { Command } from 'commander'
import { FlotillaError } from '../../protocol/errors.ts'
import { preparePersist, prepareSwap, readPersistState } from '../persist/prepare-persist.ts'

/** `flotilla persist`: the partition that outlives releases. */
export function persistCommand(): Command {
  return new Command('persist')
    .description('the partition that outlives releases')
    .addCommand(prepareCommand())
    .addCommand(swapCommand())
    .addCommand(statusCommand())
}

function prepareCommand(): Command {
  return new Command('prepare')
    .description('find, check, grow and mount it; put what it holds in place (run by the system at every boot)')
    .option('--label <label>', 'of its file system', 'persist')
    .option('--wait <seconds>', 'how long it is waited for', '30')
    .addHelpText(
      'after',
      `
Without a sound partition the device comes up all the same, with network and SSH, and says why:
flotilla persist status, /run/flotilla/persist.json, and above the login prompt.
Nothing is formatted, and nothing is repaired that needs a decision.`,
    )
    .action(async (options: { label: string; wait: string }) => {
      if (!/^\d{1,4}$/.test(options.wait))
        throw new FlotillaError('USAGE', `persist: --wait ${options.wait} is not a number of seconds`)
      const { state, problems } = await preparePersist(options.label, Number(options.wait) * 1_000, (what) =>
        process.stderr.write(`${what}\n`),
      )
      for (const problem of problems) process.stderr.write(`problem: ${problem}\n`)
      process.stdout.write(`${state}\n`)
    })
}

function swapCommand(): Command {
  return new Command('swap')
    .description('make and use the swap that /etc/flotilla/swap asks for, a number of MiB (run by the system)')
    .action(() => prepareSwap((what) => process.stderr.write(`${what}\n`)))
}

function statusCommand(): Command {
  return new Command('status')
    .description('whether it is in use, and what is wrong with it')
    .option('--json', 'machine-readable output')
    .action(async (options: { json?: boolean }) => {
      const persist = await readPersistState()
      if (options.json === true) process.stdout.write(`${JSON.stringify(persist)}\n`)
      else process.stdout.write([`${persist.state} ${persist.device}`, ...persist.problems, ''].join('\n'))
    })
}
