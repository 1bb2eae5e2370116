import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { EngineReader } from '../../agent/backup/engine-reader.ts'
import type { ContainerBackup } from '../../agent/backup/choose-backup.ts'
import { EngineRig } from '../core/engine-rig.ts'
import { BackupFleet } from './backup-fleet.ts'
import { describeTree } from './describe-tree.ts'

const FILES = Number(process.env['FLOTILLA_BACKUP_FILES'] ?? 400)
const MEGABYTES = Number(process.env['FLOTILLA_BACKUP_MB'] ?? 12)
const BACKUPS = 5

/** A robot's containers on its replacement: five devices, one of which is lost, and a holder with it. */
describe('the backups of a device that is lost', () => {
  const engines = { old: new EngineRig(), fresh: new EngineRig() }
  const fleet = new BackupFleet()
  let before: Awaited<ReturnType<typeof trees>>
  let repository = ''
  let holders: readonly string[] = []

  beforeAll(async () => {
    await fleet.init()
    await Promise.all(Object.values(engines).map((engine) => engine.start()))
    await engines.old.busybox('nav:1', { 'etc/base': 'base' })
    await fleet.add('old', engines.old)
    for (const name of ['b', 'c', 'd']) await fleet.add(name)
    await fleet.add('fresh', engines.fresh, { backups: { offerMiB: 0 } })
    fleet.writeCore('old', {
      containers: {
        nav: {
          image: 'nav:1',
          entrypoint: ['/bin/sleep', '1d'],
          env: ['MAP=hall'],
          startAfterCreate: true,
          stopTimeoutSeconds: 0,
          mounts: ['maps:/maps', `${fleet.skiff('old')}/nav:/conf`],
          backup: { copies: 3, keep: { last: 9 } },
        },
      },
      images: { 'nav:1': { pull: { policy: 'never' } } },
    })
    await fleet.fleet.startAll()
  }, 240_000)
  afterAll(async () => {
    await fleet.close()
    for (const engine of Object.values(engines)) await engine.close()
  })

  const inside = (engine: EngineRig, script: string) =>
    execFileSync('docker', ['-H', `unix://${engine.socket}`, 'exec', 'nav', '/bin/sh', '-c', script], {
      stdio: 'pipe',
      maxBuffer: 64 * 2 ** 20,
    }).toString()

  async function trees(engine: EngineRig) {
    const { mounts } = await (await EngineReader.open(engine.socket)).container('nav')
    const at = (target: string) => mounts.find((mount) => mount.target === target)?.path ?? ''
    return {
      maps: describeTree(at('/maps')),
      conf: describeTree(at('/conf')),
      // As the container sees its own file system: kind, mode, owner, size, name, content (links of directories overlayfs counts itself, their size is the file system's).
      own: inside(
        engine,
        `find / -xdev \\( -path /proc -o -path /dev -o -path /sys -o -path /etc/hosts -o -path /etc/hostname -o -path /etc/resolv.conf -o -path /.dockerenv \\) -prune -o -exec ls -ldn {} \\; | sed 's/^\\([^ ]*\\) *[0-9]* /\\1 /; s/^\\(d[^ ]* *[0-9]* *[0-9]*\\) *[0-9]*/\\1/; s/ [A-Z][a-z][a-z] .[0-9] [^ ]* / /' | sort; find / -xdev -type f -not -path '/proc/*' -not -path '/sys/*' -not -path '/etc/h*' -not -path /etc/resolv.conf | sort | xargs md5sum`,
      ),
    }
  }

  it('lie on three neighbours after each of five changes', async () => {
    for (let n = 1; n <= BACKUPS; n += 1) {
      inside(
        engines.old,
        `mkdir -p /var/lib/n${n} && cd /var/lib/n${n} && i=0; while [ $i -lt ${Math.ceil(FILES / BACKUPS)} ]; do echo "${n} $i $RANDOM" > f$i; i=$((i+1)); done
         dd if=/dev/urandom of=/maps/map${n} bs=1M count=${Math.ceil(MEGABYTES / BACKUPS)} 2>/dev/null; chown ${n}:7 /maps/map${n}; chmod 64${n % 4} /maps/map${n}
         ln -sf map${n} /maps/newest; echo ${n} > /conf/count; [ ${n} = 1 ] && rm /etc/base; rm -f /var/lib/n${n - 1}/f1; true`,
      )
      await fleet.backUp('old', 'nav')
    }
    holders = await fleet.untilCopied('old', 3, 240_000)
    expect(holders).toEqual(['b', 'c', 'd'])
    expect((await fleet.fleet.ask('old', '/backup/list', 'POST', {})) as ContainerBackup[]).toHaveLength(BACKUPS)
    const { head } = await fleet.backups('old')
    repository = head?.repository ?? ''
    before = await trees(engines.old)
    const row = (await fleet.fleet.fleetSeenFrom('b')).find(({ name }) => name === 'old')
    expect(row?.backup).toMatchObject({ copies: 3, wanted: 3 })
  }, 600_000)

  it('are opened by stock restic, with the recovery key alone', async () => {
    const path = fleet.replica('b', repository)
    const { stdout } = await fleet.fleet.flotilla(['recovery', 'open', `${path}.flotilla/record`])
    const found = execFileSync('restic', ['-r', path, '--no-lock', '--no-cache', 'check', '--read-data'], {
      env: { ...process.env, RESTIC_PASSWORD: stdout.trim() },
    }).toString()
    expect(found).toContain('no errors were found')
    expect(readFileSync(join(path, 'config')).includes(Buffer.from('MAP=hall'))).toBe(false)
  })

  it('come up on another device, equal file by file, though a holder is lost as well', async () => {
    await fleet.fleet.powerOff('old')
    await fleet.destroy(holders[0] ?? 'b')
    const via = fleet.fleet.device(holders[1] ?? 'c').host
    await fleet.fleet.flotilla(['backup', 'adopt', 'old', '--to', 'fresh', '--via', `${via.address}:${via.port}`])
    await fleet.until('fresh', 'taken over', ({ notes }) => notes.includes(`took over ${repository}`), 300_000)
    expect(await trees(engines.fresh)).toEqual(before)
    expect(inside(engines.fresh, 'echo $MAP')).toBe('hall\n')
    const { head } = await fleet.backups('fresh')
    expect(head).toMatchObject({ repository, epoch: 1 })
    expect((await fleet.fleet.ask('fresh', '/backup/list', 'POST', {})) as ContainerBackup[]).toHaveLength(BACKUPS)
    // It goes on backing up what it took over, and the holders follow it.
    inside(engines.fresh, 'echo later > /maps/later')
    await fleet.backUp('fresh', 'nav')
    await fleet.untilCopied('fresh', 2, 120_000)
  }, 600_000)

  it('are not overwritten when the old device comes back: it begins a repository of its own, and says so', async () => {
    fleet.fleet.start('old')
    const view = await fleet.until(
      'old',
      'fenced',
      ({ notes }) => notes.some((note) => note.startsWith(`${repository} was given to`)),
      120_000,
    )
    expect(view.head).toBeNull()
    await fleet.backUp('old', 'nav')
    expect((await fleet.backups('old')).head).toMatchObject({ repository: repository.replace(/1$/, '2'), epoch: 0 })
    expect((await fleet.backups('fresh')).head).toMatchObject({ repository, epoch: 1 })
  }, 300_000)
})
