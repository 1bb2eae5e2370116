import { execFileSync, spawn } from 'node:child_process'
import { appendFileSync, chmodSync, copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { EventLog } from '../../agent/control/event-log.ts'
import { openCore } from '../../agent/core/open-core.ts'
import { ArtifactStore } from '../../agent/store/artifact-store.ts'
import { NodeDisk } from '../../agent/store/node-disk.ts'
import { ReleaseFetcher } from '../../agent/store/release-fetcher.ts'
import { BlobStore } from '../../agent/store/blob-store.ts'

/**
 * A device's containers, accounts and sshd, in a mount namespace whose `/etc` is a copy: accounts of this machine are not touched.
 * Arguments: a directory, the engine's socket, the port of sshd, the bundled login shell. Prints `ready`.
 */
const [directory = '', engineSocket = '', port = '', program = ''] = process.argv.slice(2)
const persistPath = join(directory, 'flotilla')
const data = join(directory, 'skiff')
const run = join(directory, 'run')
for (const path of [persistPath, join(data, 'core'), run, '/run/sshd']) mkdirSync(path, { recursive: true })
const loginShell = join(directory, 'flotilla-shell')
writeFileSync(
  loginShell,
  `#!/bin/sh\nFLOTILLA_LOGIN_DIRECTORY='${run}/login' exec '${process.execPath}' --max-semi-space-size=1 '${program}' "$@"\n`,
)
chmodSync(loginShell, 0o755)

const persist = new NodeDisk(persistPath)
const blobs = new BlobStore(persist)
const core = await openCore({
  persist,
  persistPath,
  dataDirectory: data,
  runDirectory: run,
  engineSocket,
  loginShell,
  running: () => undefined,
  releasesInSlots: async () => [],
  pointers: () => [],
  fetcher: new ReleaseFetcher(blobs, async () => undefined),
  store: new ArtifactStore(persist, (sha256) => blobs.read(sha256)),
  chunks: {
    want: () => {},
    offer: () => {},
    foundLocally: () => {},
    lost: () => {},
    forget: () => {},
    completed: () => new Promise(() => {}),
  },
  onEngine: async () => {},
  log: new EventLog(join(persistPath, 'log'), (event) => process.stderr.write(`${JSON.stringify(event)}\n`)),
})

// An account with a plain shell on the host, to compare with; only this /etc has it.
appendFileSync('/etc/passwd', `plain:x:1999:65534::${join(directory, 'plain')}:/bin/sh\n`)
appendFileSync('/etc/shadow', 'plain:*:19000:0:99999:7:::\n')
mkdirSync(join(directory, 'plain/.ssh'), { recursive: true })
copyFileSync(join(directory, 'key.pub'), join(directory, 'plain/.ssh/authorized_keys'))

execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(directory, 'host_key')])
writeFileSync(
  join(directory, 'sshd_config'),
  `Port ${port}
ListenAddress 127.0.0.1
HostKey ${join(directory, 'host_key')}
PidFile none
UsePAM no
PasswordAuthentication no
Subsystem sftp /usr/lib/openssh/sftp-server
AcceptEnv LANG LC_* COLORTERM GIT_PROTOCOL
`,
)
const sshd = spawn('/usr/sbin/sshd', ['-D', '-e', '-f', join(directory, 'sshd_config')], {
  stdio: ['ignore', 'ignore', 'inherit'],
})
process.on('SIGTERM', () => {
  sshd.kill('SIGTERM')
  void core.stop().then(() => process.exit(0))
})
const report = setInterval(() => {
  if (core.status().users.length > 0) clearInterval(report)
  else return
  process.stdout.write('ready\n')
}, 50)
