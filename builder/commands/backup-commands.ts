import { Command } from 'commander'
import { readFileSync } from 'node:fs'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { type DeviceRecord, parseRecord } from '../../protocol/gossip/device-record.ts'
import { unseal } from '../../protocol/backup/seal.ts'
import { encodeFleetPolicy, parseFleetPolicy } from '../../protocol/membership/fleet-policy.ts'
import { findRepository, ownedHead, planAdoption } from '../recovery/plan-adoption.ts'
import { composePolicy } from '../release/init-fleet.ts'
import { createKeyFile, listKeys, openRecoveryKey, spokenFingerprint } from '../release/key-file.ts'
import { Repository } from '../release/repository.ts'
import { stage, stagingDirectory } from '../release/staging.ts'
import { tellDevice } from '../seed/tell-device.ts'
import { visitDevice } from '../seed/visit-device.ts'
import { askPassphrase } from './ask.ts'
import { firstCa, repoOption } from './fleet-commands.ts'
import { signAndPublish } from './sign-and-publish.ts'

type AdoptOptions = {
  repo: string
  to: string
  via: string
  key?: string
  interface: string[]
  timeout: string
  prepare?: boolean
  json?: boolean
}

/** `flotilla backup`: what a workstation does about the backups of devices. */
export function backupCommand(): Command {
  return new Command('backup')
    .description('give the backups of a device that is gone to another')
    .addCommand(adoptCommand())
}

function adoptCommand(): Command {
  return new Command('adopt')
    .description(
      "the containers of a device that is gone come up on another; the old one's later backups go to a name of their own",
    )
    .argument('<old-device>', 'its name, its id, or the name of its repository')
    .requiredOption('--to <device>', 'name or id of the device that takes over')
    .requiredOption('--via <device>', 'any member in reach: name, id or address')
    .addOption(repoOption())
    .option('--key <file>', 'the recovery key (default: the one in the repository)')
    .option('--interface <names...>', 'look for the member on these links only', [])
    .option('--timeout <seconds>', 'give up telling after', '60')
    .option('--prepare', "only stage the fleet's policy, for `release sign` and `release publish`")
    .option('--json', 'machine-readable output')
    .addHelpText(
      'after',
      `
Needs the recovery key and the keys that sign the fleet's policy. No internet: the order travels from device to device.
Examples:
  flotilla backup adopt robot-3 --to robot-9 --via robot-5
  flotilla backup adopt robot-3 --to robot-9 --via 192.168.1.7 --key /media/usb/recovery-1.key`,
    )
    .action(adopt)
}

async function adopt(old: string, options: AdoptOptions): Promise<void> {
  const repository = Repository.open(options.repo)
  const passphrase = await askPassphrase('the keys')
  const secret = openRecoveryKey(options.key ?? recoveryKeyIn(repository), passphrase)
  const ca = () => firstCa(repository, passphrase)
  const { name, epoch, target } = await visitDevice(
    repository,
    ca,
    options.via,
    options.interface,
    async (session, member) => {
      await session.askFleet(member)
      const records = session.records().map(({ signed }) => signed.record)
      const name = findRepository(records, old)
      const to = records.find(({ device, name: called }) => device === options.to || called === options.to)
      if (to === undefined) throw notHeardOf(old, options.to, records)
      const before = repository.policy()
      const bytes = await session.backupHead(member.id, name)
      const told = bytes === undefined ? records : [...records, parseRecord(bytes).record]
      const head = ownedHead(told, name, before)
      if (head === undefined)
        throw new FlotillaError(
          'NOT_FOUND',
          `adopt ${old}: ${member.certificate.name} has not heard of its last backup; ask a device that holds a copy (--via): ${holdersOf(records, name)}`,
        )
      const policy = planAdoption(before, head, to, secret)
      parseFleetPolicy(encodeFleetPolicy(policy)) // what no device would read is not signed
      stage(stagingDirectory(repository), composePolicy(repository, policy, Date.now()))
      const epoch = policy.claims.find(({ repository: one }) => one === name)?.epoch ?? 0
      return { name, epoch, target: to.name }
    },
  )
  if (options.prepare !== true) {
    await signAndPublish(repository)
    const told = await tellDevice(repository, ca, options.via, options.interface, Number(options.timeout) * 1_000)
    process.stderr.write(
      `${told} holds the order; ${target} fetches ${name} and restores its containers (flotilla backup status on it)\n`,
    )
  } else process.stderr.write('staged; `flotilla release sign` and `release publish` make it current\n')
  if (options.json === true) process.stdout.write(`${JSON.stringify({ repository: name, to: target, epoch })}\n`)
}

function notHeardOf(old: string, to: string, records: readonly DeviceRecord[]): FlotillaError {
  const there = records.map(({ name }) => name).sort()
  return new FlotillaError('NOT_FOUND', `adopt ${old}: ${to} was not heard of; there are ${there.join(', ')}`)
}

function holdersOf(records: readonly DeviceRecord[], repository: string): string {
  const names = records
    .filter(({ holder }) => holder?.replicas.some((one) => one.repository === repository))
    .map(({ name }) => name)
  return names.join(', ') || 'none was heard of'
}

/** `flotilla recovery`: the key that opens backups when their device is gone. */
export function recoveryCommand(): Command {
  return new Command('recovery')
    .description('the key that opens backups when their device is gone')
    .addCommand(
      new Command('init')
        .description('make a recovery key for a fleet that has none; its secret belongs in a safe')
        .addOption(repoOption())
        .option('--name <name>', 'name of the key', 'recovery-1')
        .option('--out <dir>', 'where the key file goes (default: the keys of the repository)')
        .option('--prepare', "only stage the fleet's policy, for `release sign` and `release publish`")
        .action(async (options: { repo: string; name: string; out?: string; prepare?: boolean }) => {
          const repository = Repository.open(options.repo)
          const policy = repository.policy()
          if (policy.recoveryKey !== undefined)
            throw new FlotillaError(
              'ALREADY_EXISTS',
              `recovery init: fleet ${repository.fleet} has the recovery key ${spokenFingerprint(policy.recoveryKey)}`,
            )
          const passphrase = await askPassphrase('the keys')
          const key = createKeyFile(options.out ?? repository.keysDirectory(), options.name, 'recovery', passphrase)
          stage(
            stagingDirectory(repository),
            composePolicy(repository, { ...policy, recoveryKey: key.publicHex }, Date.now()),
          )
          if (options.prepare !== true) await signAndPublish(repository)
          process.stdout.write(`${key.path}\n`)
          process.stderr.write(
            `recovery key ${spokenFingerprint(key.publicHex)}${options.prepare === true ? ', staged' : '; hand the new policy to a device: flotilla seed'}\n`,
          )
        }),
    )
    .addCommand(
      new Command('open')
        .description("print the password of a repository, from the record that lies beside a holder's replica")
        .argument('<record>', 'the file `record` in `…/backups/replicas/<repository>.flotilla/`')
        .option('--key <file>', 'the recovery key (default: the one in the repository)')
        .addOption(repoOption())
        .addHelpText(
          'after',
          '\nExample, with stock restic on a copy of a replica:\n  flotilla recovery open 12D3….1.flotilla/record --key recovery-1.key > password\n  restic -r 12D3….1 --password-file password --no-lock restore latest --target out',
        )
        .action(async (path: string, options: { key?: string; repo: string }) => {
          const file = options.key ?? recoveryKeyIn(Repository.open(options.repo))
          process.stdout.write(
            `${unseal(readSealed(path), openRecoveryKey(file, await askPassphrase('the recovery key')))}\n`,
          )
        }),
    )
}

/** @throws FlotillaError NOT_FOUND, FORMAT */
function readSealed(path: string): string {
  let bytes: Buffer
  try {
    bytes = readFileSync(path)
  } catch (cause) {
    throw new FlotillaError('NOT_FOUND', `read ${path}: ${messageOf(cause)}`, { cause })
  }
  // As the agent keeps it: a line with its hash first.
  const { backup } = parseRecord(bytes[64] === 0x0a ? bytes.subarray(65) : bytes).record
  if (backup === undefined || backup.sealed === '')
    throw new FlotillaError(
      'NOT_FOUND',
      `read ${path}: that record has no sealed password; the fleet had no recovery key then`,
    )
  return backup.sealed
}

/** @throws FlotillaError NOT_FOUND */
function recoveryKeyIn(repository: Repository): string {
  const key = listKeys(repository.keysDirectory()).find(({ purpose }) => purpose === 'recovery')
  if (key === undefined)
    throw new FlotillaError(
      'NOT_FOUND',
      `no recovery key lies in ${repository.keysDirectory()}; name its file with --key`,
    )
  return key.path
}
