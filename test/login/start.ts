import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { parse } from 'yaml'
import { buildImages } from '../fleet/build-images.ts'
import { LoginRig } from './login-rig.ts'

/**
 * `npm run start:containers [skiff-core.yaml]`: a device on this machine with a Docker Engine and sshd of its own. It makes the containers
 * and accounts of the file, and opens an SSH session in the first account's container. Accounts of this machine are not touched.
 */
const [file] = process.argv.slice(2)
const say = (text: string) => process.stderr.write(`${text}\n`)
if (process.getuid?.() !== 0) {
  say('start:containers: dockerd, accounts and sshd need root; run it as root')
  process.exit(6)
}
await buildImages(() => {})
const rig = new LoginRig()
const stop = (code: number) => {
  void rig.close().finally(() => process.exit(code))
}
process.on('SIGINT', () => stop(130))
process.on('SIGTERM', () => stop(143))
try {
  say('start a Docker Engine, and make the image debian:1 from packages')
  await rig.start()
  const core = file === undefined ? sample() : (parse(readFileSync(file, 'utf8')) as ReturnType<typeof sample>)
  const [account] = Object.keys(core.users ?? {})
  if (account === undefined) throw new Error(`${file}: no users, so nobody can log in`)
  for (const user of Object.values(core.users)) user.auth = { ...user.auth, sshKeys: [rig.publicKey] }
  rig.write(core)
  say(`\nskiff-core.yaml:\n${readFileSync(rig.file, 'utf8')}`)
  await rig.boot()
  const client = ['ssh', ...rig.options, '-p', String(rig.port), `${account}@127.0.0.1`]
  say(`the device is up; ssh ${account}@device is here\n  ${client.join(' ')}\n`)
  const command = process.stdin.isTTY ? [] : ['echo "in the container of $(hostname) as $(whoami), in $(pwd)"']
  const session = spawn(client[0] ?? '', [...client.slice(1), ...command], { stdio: 'inherit' })
  const code = await new Promise<number>((resolve) => session.once('exit', (exit) => resolve(exit ?? 1)))
  say(`the session ended with ${code}`)
  stop(code)
} catch (error) {
  say(`start:containers: ${error instanceof Error ? error.message : String(error)}\n${rig.log}`)
  stop(1)
}

function sample() {
  return {
    containers: {
      core: {
        image: 'debian:1',
        entrypoint: ['/bin/sleep', '1d'],
        stopTimeoutSeconds: 0,
        startAfterCreate: true,
        hostname: 'core',
        mounts: ['core-home:/home'],
      },
    },
    users: {
      core: {
        container: 'core',
        containerUser: 'robot',
        containerShell: ['/bin/bash'],
        createContainerUser: true,
        auth: {} as { sshKeys?: string[] },
      },
    },
  }
}
