import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { incompressible } from '../fleet/build-images.ts'
import { LoginRig } from './login-rig.ts'

const SLEEP = { entrypoint: ['/bin/sleep', '1d'], stopTimeoutSeconds: 0, startAfterCreate: true }

describe('SSH sessions', () => {
  const rig = new LoginRig()

  beforeAll(async () => {
    await rig.start()
    const auth = { sshKeys: [rig.publicKey] }
    const debian = { container: 'debian', containerShell: ['/bin/bash'] }
    rig.write({
      containers: {
        debian: { ...SLEEP, image: 'debian:1' },
        later: { ...SLEEP, image: 'later:1' },
        broken: { ...SLEEP, image: 'debian:1', entrypoint: ['/bin/false'] },
      },
      images: { 'later:1': { pull: { policy: 'never' } } },
      users: {
        core: { ...debian, containerUser: 'robot', createContainerUser: true, auth },
        boss: { ...debian, auth: { ...auth, password: 'open sesame' } },
        later: { container: 'later', containerShell: ['/bin/bash'], auth },
        broken: { container: 'broken', auth },
        lost: { ...debian, containerUser: 'not-there', auth },
        daemon: { ...debian, auth },
        shut: { ...debian, auth: { ...auth, locked: true } },
        empty: { ...debian, auth: { allowEmptyPassword: true } },
      },
    })
    await rig.boot()
  })
  afterAll(() => rig.close())

  const text = (bytes: Buffer) => bytes.toString().replaceAll('\r', '')
  const scpPort = () => ['-P', String(rig.port), ...rig.options]

  it('run a command in the container, as its user, with streams apart and its own exit code', async () => {
    const ended = await rig.ssh('core', ['echo out; echo err >&2; cat /proc/1/cmdline | tr "\\0" " "; exit 7'])
    expect(ended.stderr.replaceAll(/^flotilla: .*\n/gm, '')).toBe('err\n')
    expect(text(ended.stdout)).toMatch(/^out\n.*sleep 1d/)
    expect(ended.code).toBe(7)
    expect(text((await rig.ssh('core', ['whoami; pwd; echo $HOME $USER'])).stdout)).toBe(
      'robot\n/home/robot\n/home/robot robot\n',
    )
    expect(text((await rig.ssh('boss', ['id -u; pwd'])).stdout)).toBe('0\n/root\n')
    expect((await rig.ssh('core', ['true'])).code).toBe(0)
    expect((await rig.ssh('core', ['no-such-program'])).code).toBe(127)
  })

  it('carry bytes both ways as they are, and the end of the input', async () => {
    const noise = Buffer.from(incompressible('login', 6 * 2 ** 20))
    const ended = await rig.ssh('core', ['cat'], { input: noise })
    expect(ended.stdout.equals(noise)).toBe(true)
    expect(
      (await rig.ssh('core', ['sha256sum | cut -c1-8; cat /dev/zero | head -c 3000000'], { input: noise })).stdout
        .length,
    ).toBe(3_000_009)
  })

  it('pass the language and what SSH says of itself, nothing else', async () => {
    const options = ['-o', 'SendEnv=LANG', '-o', 'SendEnv=SECRET']
    const env = { LANG: 'de_DE.UTF-8', SECRET: 'x' }
    const { stdout } = await rig.ssh('core', ['env'], { first: options, env })
    expect(text(stdout)).toMatch(/^LANG=de_DE.UTF-8$/m)
    expect(text(stdout)).toMatch(/^SSH_CONNECTION=127.0.0.1 /m)
    expect(text(stdout)).not.toMatch(/SECRET|FLOTILLA/)
  })

  it('have a terminal whose size follows, and a login shell', async () => {
    const client = ['ssh', ...rig.options, '-tt', '-p', String(rig.port), 'core@127.0.0.1']
    const quoted = client.map((word) => `'${word}'`).join(' ')
    const script = `T=$(tty); stty rows 33 cols 77; (sleep 4; for n in $(seq 9); do stty rows 3$n cols 7$n <$T; done; stty rows 20 cols 60 <$T) & ${quoted} 'for n in $(seq 50); do [ "$(stty size)" = "33 77" ] && break; sleep 0.1; done; stty size; tty; for n in $(seq 100); do [ "$(stty size)" = "20 60" ] && break; sleep 0.2; done; stty size; exit 5'`
    const ended = await rig.run('script', ['-qec', script, '/dev/null'], { env: { SHELL: '/bin/bash' } })
    // `script` shows the end of its own input as ^@.
    expect(text(ended.stdout).replaceAll('^@', '')).toMatch(/33 77\n\/dev\/pts\/\d+\n20 60\n/)
    expect(ended.code).toBe(5)
    const shell = await rig.ssh('core', [], {
      first: ['-tt'],
      input: 'shopt -q login_shell && echo it is a $((40 + 2)); exit 3\n',
    })
    expect(text(shell.stdout)).toContain('it is a 42')
    expect(shell.code).toBe(3)
  })

  it('serve scp, sftp, rsync and git', async () => {
    const here = join(rig.directory, 'here')
    mkdirSync(here)
    writeFileSync(join(here, 'file'), incompressible('scp', 700_000))
    const there = `core@127.0.0.1:/home/robot`
    for (const mode of [[], ['-O']]) {
      await ok(rig.run('scp', [...mode, ...scpPort(), join(here, 'file'), `${there}/sent`]))
      await ok(rig.run('scp', [...mode, ...scpPort(), `${there}/sent`, join(here, 'back')]))
      expect(readFileSync(join(here, 'back')).equals(readFileSync(join(here, 'file')))).toBe(true)
    }
    const batch = `put ${join(here, 'file')} by-sftp\nls -l\nget by-sftp ${join(here, 'got')}\n`
    expect(
      text((await ok(rig.run('sftp', [...scpPort(), '-b', '-', 'core@127.0.0.1'], { input: batch }))).stdout),
    ).toContain('by-sftp')
    expect(readFileSync(join(here, 'got')).equals(readFileSync(join(here, 'file')))).toBe(true)
    const shell = `ssh -p ${rig.port} ${rig.options.join(' ')}`
    await ok(rig.run('rsync', ['-a', '-e', shell, `${here}/`, `${there}/tree`]))
    expect(text((await rig.ssh('core', ['ls tree'])).stdout)).toBe('back\nfile\ngot\n')
    await ok(rig.ssh('core', ['git init -q --bare repo.git']))
    const work = join(rig.directory, 'work')
    const git = (...args: string[]) =>
      ok(rig.run('git', ['-c', 'user.name=t', '-c', 'user.email=t@t', ...args], { env: { GIT_SSH_COMMAND: shell } }))
    await git('init', '-q', work)
    writeFileSync(join(work, 'a'), 'a')
    await git('-C', work, 'add', 'a')
    await git('-C', work, 'commit', '-qm', 'one')
    await git('-C', work, 'push', '-q', `${there}/repo.git`, 'HEAD:main')
    expect(text((await git('ls-remote', `${there}/repo.git`)).stdout)).toContain('refs/heads/main')
  })

  it('let programs in the container use the agent of the client', async () => {
    const agent = join(rig.directory, 'agent.sock')
    const daemon = spawn('ssh-agent', ['-D', '-a', agent], { stdio: 'ignore' })
    try {
      const env = { SSH_AUTH_SOCK: agent }
      for (let n = 0; (await rig.run('ssh-add', ['-q', rig.key], { env })).code !== 0 && n < 50; n += 1) await pause(50)
      const { stdout, stderr } = await rig.ssh('core', ['ssh-add -L; ls -l $SSH_AUTH_SOCK | cut -c1-10'], {
        first: ['-A'],
        env,
      })
      expect([text(stdout), stderr]).toEqual([`${rig.publicKey}\nsrw-------\n`, ''])
      expect(text((await rig.ssh('core', ['ls /tmp'])).stdout)).toBe('')
    } finally {
      daemon.kill()
    }
  })

  it('tell what runs that the client is gone', async () => {
    const script = 'trap "echo got > $HOME/hup; exit" HUP; echo up; while :; do sleep 0.1; done'
    const client = spawn('ssh', [...rig.options, '-tt', '-p', String(rig.port), 'core@127.0.0.1', script])
    await new Promise((resolve) => client.stdout.once('data', resolve))
    client.kill('SIGKILL')
    for (let n = 0; n < 100 && (await rig.ssh('core', ['cat hup'])).code !== 0; n += 1) await pause(100)
    expect(text((await rig.ssh('core', ['cat hup'])).stdout)).toBe('got\n')
  })

  it('end what reads nothing when the client is gone, however much was sent', async () => {
    const client = spawn('ssh', [...rig.options, '-p', String(rig.port), 'core@127.0.0.1', 'echo up; sleep 1234'])
    client.stdin.on('error', () => {})
    client.stdin.write(incompressible('flood', 20 * 2 ** 20))
    await new Promise((resolve) => client.stdout.once('data', resolve))
    await pause(1_000)
    client.kill('SIGKILL')
    const running = async () =>
      (await rig.ssh('core', ['cat /proc/[0-9]*/cmdline | tr "\\0" " " | grep -c "[s]leep 1234"'])).code === 0
    for (let n = 0; n < 100 && (await running()); n += 1) await pause(100)
    expect(await running()).toBe(false)
  })

  it('start a container that was stopped', async () => {
    await rig.engine.docker.getContainer('debian').stop({ t: 0 })
    expect(text((await rig.ssh('core', ['echo here'])).stdout)).toBe('here\n')
  })

  it('wait for a container that is not there yet, say how far it is, and go on', async () => {
    let told = () => {}
    const firstNews = new Promise<void>((resolve) => {
      told = resolve
    })
    const waiting = rig.ssh('later', ['echo at last'], { onStderr: told })
    await firstNews
    await rig.engine.docker.getImage('debian:1').tag({ repo: 'later', tag: '1' })
    const { stdout, stderr } = await waiting
    expect(text(stdout)).toBe('at last\n')
    expect(stderr).toMatch(/flotilla: image later:1: /)
  })

  it('say what is wrong with a container that does not come up, and the way to the host', async () => {
    const ended = await rig.ssh('broken', ['true'])
    expect(ended.code).toBe(69)
    expect(ended.stderr).toMatch(/container broken.* ended with exit code 1/)
    expect(ended.stderr).toContain('ssh root@')
    const unknown = await rig.ssh('lost', ['true'])
    expect(unknown.stderr).toContain('container debian has no user not-there; set createContainerUser: true')
  })

  it('give an account its own container and nothing else', async () => {
    const passwd = rig.read('/etc/passwd')
    const [, uid = '', gid = ''] = /^core:x:(\d+):(\d+):/m.exec(passwd) ?? []
    const as = (path: string) =>
      rig.run('setpriv', [
        '--reuid',
        uid,
        '--regid',
        gid,
        '--clear-groups',
        process.execPath,
        '-e',
        `require('net').connect(process.argv[1]).on('connect', () => process.exit(0)).on('error', (e) => (console.error(e.code), process.exit(1)))`,
        path,
      ])
    expect((await as(join(rig.directory, 'run/login/core.sock'))).code).toBe(0)
    for (const path of [join(rig.directory, 'run/login/boss.sock'), rig.engine.socket])
      expect((await as(path)).stderr).toContain('EACCES')
    // Nor the host's ports, through sshd.
    const port = await rig.ssh('core', [], { first: ['-W', `127.0.0.1:${rig.port}`] })
    expect(port.stderr).toMatch(/prohibited|forwarding failed|open failed/)
    // An account of the host is left alone, and the others are made all the same.
    expect(passwd).toMatch(/^daemon:.*nologin$/m)
    expect(rig.log).toContain('users.daemon: this host has an account of that name')
    expect(rig.read('/etc/group')).not.toMatch(/^docker:.*core/m)
    expect(execFileSync('cat', ['/etc/passwd'], { encoding: 'utf8' })).not.toContain('flotilla-shell')
  })

  it('keep passwords hashed, refuse empty ones unless allowed, and shut what is locked', async () => {
    const shadow = rig.read('/etc/shadow')
    expect(shadow).toMatch(/^boss:\$6\$[^:]{40,}:/m)
    expect(shadow).toMatch(/^core:\*:/m)
    expect(shadow).toMatch(/^empty::/m)
    expect(shadow).toMatch(/^shut:!:/m)
    expect(shadow).not.toContain('sesame')
    expect((await rig.ssh('shut', ['true'])).code).toBe(255)
    expect((await rig.ssh('shut', ['true'])).stderr).toContain('Permission denied')
  })

  it('keep their number when others come and go, and end when they leave the file', async () => {
    const numberOf = (name: string) => new RegExp(`^${name}:x:(\\d+):`, 'm').exec(rig.read('/etc/passwd'))?.[1]
    const before = numberOf('later')
    const auth = { sshKeys: [rig.publicKey] }
    rig.write({
      containers: { debian: { ...SLEEP, image: 'debian:1' } },
      users: { aaa: { container: 'debian', auth }, later: { container: 'debian', auth } },
    })
    for (let n = 0; n < 100 && numberOf('core') !== undefined; n += 1) await pause(100)
    expect([numberOf('core'), numberOf('later')]).toEqual([undefined, before])
    expect((await rig.ssh('core', ['true'])).code).toBe(255)
    expect((await rig.ssh('aaa', ['true'])).code).toBe(0)
  })
})

async function ok<T extends { code: number; stderr: string }>(ending: Promise<T>): Promise<T> {
  const ended = await ending
  expect([ended.code, ended.stderr]).toEqual([0, expect.anything()])
  return ended
}
