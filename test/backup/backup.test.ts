import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { EngineReader } from '../../agent/backup/engine-reader.ts'
import { EngineRig } from '../core/engine-rig.ts'
import { BackupRig } from './backup-rig.ts'
import { describeTree } from './describe-tree.ts'

const SLEEP = { image: 'tool:1', entrypoint: ['/bin/sleep', '1d'], startAfterCreate: true, stopTimeoutSeconds: 0 }
/** What a container can leave: links, modes, owners, odd names, attributes, what it removed of its image. */
const LIVED = `cd /var && mkdir -p deep/er && echo one > deep/er/file && ln deep/er/file deep/hard && ln -s ../nowhere deep/soft
chmod 4751 deep/er/file; chown 1234:55 deep/er/file; mkfifo pipe; echo x > 'with space, and "quotes"'
dd if=/dev/urandom of=big bs=1M count=3 2>/dev/null; rm /etc/base; rm -r /opt/old; mkdir -p /opt/old; echo new > /opt/old/new
echo v > /data/volume; mkdir /data/d; echo b > /bound/bound; chown 7:8 /bound/bound; touch -d '2001-02-03 04:05:06' /bound/old`

describe('a backup of a container', () => {
  const engine = new EngineRig()
  let rig: BackupRig

  beforeAll(async () => {
    await engine.start()
    await engine.busybox('tool:1', { 'etc/base': 'base', 'opt/old/a': '1' })
    rig = new BackupRig(engine)
    rig.core.write({
      containers: {
        tool: {
          ...SLEEP,
          mounts: ['toolData:/data', `${rig.core.data}/tool:/bound`, '/etc:/host-etc:ro'],
          backup: { consistency: 'pause', exclude: ['*.tmp', '/var/cache', '/data/skip'], keep: { last: 9 } },
        },
      },
    })
    await rig.start()
    await rig.core.untilSettled('tool')
  })
  afterAll(async () => {
    await rig.stop()
    await engine.close()
  })

  const inside = (script: string) =>
    execFileSync('docker', ['-H', `unix://${engine.socket}`, 'exec', 'tool', '/bin/sh', '-c', script], {
      stdio: 'pipe',
    })
  async function trees() {
    const reader = await EngineReader.open(engine.socket)
    const { layers, mounts } = await reader.container('tool')
    const volume = mounts.find(({ target }) => target === '/data')?.path ?? ''
    return {
      layer: describeTree(layers?.upper ?? ''),
      volume: describeTree(volume),
      bound: describeTree(join(rig.core.data, 'tool')),
    }
  }
  const seenInside = () => inside('find / -xdev -path /proc -prune -o -path /dev -prune -o -print | sort').toString()

  it.each(['layer', 'tree'] as const)(
    'brings back the %s, volumes and mounts as they were, and it runs',
    async (kind) => {
      const image = (await engine.docker.getImage('tool:1').inspect()).Id
      rig.signed = new Set(kind === 'layer' ? [image] : [])
      inside(`rm -rf /var/* /data/* /bound/* /opt/old; mkdir -p /opt/old; touch /etc/base; ${LIVED}`)
      inside('mkdir -p /var/cache; touch /var/cache/x /var/a.tmp /data/skip')
      const before = await trees()
      const seen = seenInside()
      await rig.backUp('tool')
      inside(
        'rm -rf /var/deep /data/volume /bound/bound; echo other > /var/other; echo more > /bound/more; touch /etc/base',
      )
      const old = (await rig.core.inspect('tool')).Id
      await rig.restore('tool')
      expect((await rig.core.inspect('tool')).State.Running).toBe(true)
      expect((await rig.core.inspect('tool')).Id).not.toBe(old)
      await rig.core.untilSettled('tool')
      const left = (line: string) => !/^(var\/cache|var\/a\.tmp|skip|\.( |$)|var )/.test(line)
      const after = await trees()
      expect(after.volume.filter(left)).toEqual(before.volume.filter(left))
      expect(after.bound.filter(left)).toEqual(before.bound.filter(left))
      if (kind === 'layer') expect(after.layer.filter(left)).toEqual(before.layer.filter(left))
      const excluded = (text: string) =>
        text.split('\n').filter((line) => !/cache|a\.tmp|\/data\/skip|host-etc/.test(line))
      expect(excluded(seenInside())).toEqual(excluded(seen))
      expect(inside('cat /opt/old/new; ls /opt/old').toString()).toBe('new\nnew\n')
      expect(await rig.core.all()).toHaveLength(1)
    },
  )

  it('is small and short when nothing changed, and is listed, compared and verified', async () => {
    const before = Buffer.byteLength(readFileSync(join(rig.backups, 'repository/config')))
    expect(before).toBeGreaterThan(0)
    const job = await rig.backUp('tool')
    expect(job.result).toMatch(/, (\d+ B|[\d.]+ kB) new$/)
    inside('echo changed > /var/changed')
    await rig.backUp('tool')
    const all = await rig.keeper.list('tool')
    expect(all.length).toBeGreaterThanOrEqual(4)
    const [older, newer] = all.slice(-2)
    const diff = await rig.ended(await rig.keeper.diff(older?.id ?? '', newer?.id ?? ''))
    expect(diff.result).toMatch(/^\+ +\/layer\/var\/changed$/m)
    expect(await rig.ended(rig.keeper.verify(true))).toMatchObject({ state: 'done' })
    // By time: the one before the change.
    await rig.restore('tool', older?.time)
    expect(() => inside('cat /var/changed')).toThrow(/No such file/)
  })
})
