import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { POLICY, useToolDevice } from './tool-device.ts'

/** What can go wrong on the device itself. Each test makes the fault and looks that it happened; the rest is in `faults.whole.test.ts`. */
describe('backups of a device', () => {
  const device = useToolDevice()

  it('fail loudly on a full disk, the container goes on, and the next one is whole', async () => {
    mkdirSync(device.rig.backups, { recursive: true })
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', device.rig.backups])
    try {
      device.inside('head -c 12000000 /dev/urandom > /data/big')
      expect(await device.failed()).toMatchObject({ code: 'NOT_ENOUGH_SPACE' })
      expect(await device.state()).toMatchObject({ Running: true, Paused: false })
      expect(device.head()).toBeUndefined()
      expect(device.events('backup-failed')).toHaveLength(1)
      expect(device.rig.keeper.status()[0]?.problem).toMatch(/no space/)
      execFileSync('mount', ['-o', 'remount,size=200m', device.rig.backups])
      const before = device.files()
      await device.rig.backUp('tool')
      device.inside('rm -rf /data/*')
      await device.rig.restore('tool')
      expect(device.files()).toEqual(before)
    } finally {
      execFileSync('umount', [device.rig.backups])
    }
  })

  it('are not told of when the check fails', async () => {
    await device.rig.backUp('tool')
    const before = device.head()
    const [largest] = [...device.packs()].sort((a, b) => statSync(b).size - statSync(a).size)
    const bytes = readFileSync(largest ?? '')
    rmSync(largest ?? '')
    device.inside('echo two > /data/file')
    expect(await device.failed()).toMatchObject({ code: 'VERIFY_FAILED' })
    expect(device.head()).toMatchObject({ seq: before?.seq, list: before?.list })
    writeFileSync(largest ?? '', bytes)
    await device.rig.backUp('tool')
    expect(device.head()?.seq).toBe((before?.seq ?? 0) + 1)
  })

  it('refuse to restore what rotted, and leave the container and its volume as they are', async () => {
    await device.rig.backUp('tool')
    for (const path of device.packs()) {
      const bytes = readFileSync(path)
      bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1
      writeFileSync(path, bytes)
    }
    device.inside('echo later > /data/file')
    const before = device.files()
    const id = (await device.rig.core.inspect('tool')).Id
    const { job } = await device.rig.keeper.restore('tool', undefined, false)
    expect(await device.rig.ended(job)).toMatchObject({ state: 'failed', code: 'VERIFY_FAILED' })
    expect(device.files()).toEqual(before)
    expect((await device.rig.core.inspect('tool')).Id).toBe(id)
    expect(await device.state()).toMatchObject({ Running: true })
    expect(existsSync(`${device.volume}.flotilla-restore`)).toBe(false)
    expect(await device.rig.ended(device.rig.keeper.verify(true))).toMatchObject({
      state: 'failed',
      code: 'VERIFY_FAILED',
    })
  })

  it.each(['prepare', 'switch', 'finish'] as const)(
    'are finished or thrown away after a cut in the middle of a restore: %s',
    async (phase) => {
      const good = device.files()
      await device.rig.backUp('tool')
      device.inside('echo later > /data/file')
      const later = device.files()
      device.rig.cutAt = phase
      const { job } = await device.rig.keeper.restore('tool', undefined, false)
      expect(await device.rig.ended(job)).toMatchObject({ state: 'failed', result: 'cut off' })
      expect(existsSync(`${device.volume}.flotilla-restore`)).toBe(phase === 'switch')
      device.rig.cutAt = undefined
      await device.rig.stop()
      await device.rig.start()
      await device.rig.core.untilSettled('tool')
      expect(device.events('restore-interrupted')).toHaveLength(1)
      expect(device.files()).toEqual(phase === 'prepare' ? later : good)
      expect(existsSync(`${device.volume}.flotilla-restore`) || existsSync(`${device.volume}.flotilla-before`)).toBe(
        false,
      )
      expect(await device.rig.core.all()).toHaveLength(1)
      expect(await device.state()).toMatchObject({ Running: true })
    },
  )

  it('run the commands before and after, stop the container where asked, and name what a policy gets wrong', async () => {
    device.write({
      ...POLICY,
      consistency: 'stop',
      before: ['/bin/sh', '-c', 'echo frozen > /data/state'],
      after: '/bin/true',
    })
    const { Id } = await device.rig.core.inspect('tool')
    await device.rig.backUp('tool')
    expect(readFileSync(join(device.volume, 'state'), 'utf8')).toBe('frozen\n')
    const state = await device.state()
    expect(state.Running).toBe(true)
    expect((await device.rig.core.inspect('tool')).Id).toBe(Id)
    expect(Date.parse(state.FinishedAt)).toBeGreaterThan(Date.now() - 60_000)
    device.write({ ...POLICY, before: ['/bin/false'] })
    expect(await device.failed()).toMatchObject({
      code: 'BAD_CONFIG',
      result: expect.stringMatching(/\/bin\/false ended with exit code 1/),
    })
    device.write({ ...POLICY, mounts: ['/other'] })
    expect(await device.failed()).toMatchObject({
      code: 'BAD_CONFIG',
      result: expect.stringMatching(/backup.mounts names \/other/),
    })
  })
})
