import { execFileSync, spawn } from 'node:child_process'
import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { sealPair, unseal } from '../../protocol/backup/seal.ts'
import { DEVICE } from './backup-rig.ts'
import { POLICY, useToolDevice } from './tool-device.ts'

describe('backups of a device, whatever else goes wrong', () => {
  const device = useToolDevice()

  it('keep what they kept under a clock that is wrong: neither order nor a jump has a wanted one forgotten', async () => {
    device.write({ keep: { last: 2, daily: 3 } })
    const day = 86_400_000
    const seen: (readonly string[])[] = []
    // Ten days ahead, then back to now: signed times say how far ahead at least it is.
    for (const aheadMs of [10 * day, 0, 11 * day]) {
      device.rig.floorMs = aheadMs === 0 ? 0 : Date.now() + aheadMs
      device.inside(`echo ${aheadMs} > /data/file`)
      seen.push(device.files())
      await device.rig.backUp('tool')
    }
    const all = await device.rig.keeper.list('tool')
    expect(all).toHaveLength(3)
    expect(Date.parse(all[0]?.time ?? '')).toBeLessThan(Date.now() + day)
    await device.rig.restore('tool', all[0]?.id)
    expect(device.files()).toEqual(seen[1])
    expect(device.events('backup-failed')).toEqual([])
  })

  it('wait for each other, and for a restic that somebody else runs', async () => {
    await device.rig.backUp('tool')
    const other = spawn('restic', ['-r', join(device.rig.backups, 'repository'), '--no-cache', 'backup', '/usr/lib'], {
      env: { ...process.env, RESTIC_PASSWORD: device.rig.own.password },
      stdio: 'ignore',
    })
    const locks = join(device.rig.backups, 'repository/locks')
    while (readdirSync(locks).length === 0) await pause(20)
    const first = await device.begin()
    const second = await device.begin()
    // A backup can go on beside another; to forget what is not kept it has to be alone.
    while (device.rig.keeper.jobs.get(first.id).share < 0.92) await pause(50)
    expect(other.exitCode).toBeNull()
    expect(device.rig.keeper.jobs.get(first.id).state).toBe('running')
    other.kill('SIGINT')
    expect((await device.rig.ended(first)).state).toBe('done')
    expect((await device.rig.ended(second)).state).toBe('done')
    expect(await device.rig.keeper.list('tool')).toHaveLength(3)
  })

  it('go on after a restic that was killed, whose lock is left', async () => {
    await device.rig.backUp('tool')
    device.inside('head -c 30000000 /dev/urandom > /data/big')
    const job = await device.begin()
    const pid = await resticPid(device.rig.backups)
    const locks = join(device.rig.backups, 'repository/locks')
    while (readdirSync(locks).length === 0) await pause(5)
    process.kill(pid, 'SIGKILL')
    expect(await device.rig.ended(job)).toMatchObject({ state: 'failed' })
    expect(readdirSync(locks).length).toBeGreaterThan(0)
    expect(await device.state()).toMatchObject({ Running: true, Paused: false })
    const seq = device.head()?.seq
    const before = device.files()
    await device.rig.backUp('tool')
    // Needs the repository for itself: the lock of the dead one must be gone.
    await device.rig.own.forget(new Map(), true, AbortSignal.timeout(60_000))
    expect(device.head()?.seq).toBe((seq ?? 0) + 1)
    device.inside('rm -rf /data/*')
    await device.rig.restore('tool')
    expect(device.files()).toEqual(before)
  })

  it('begin another repository when the password file is lost; the old one is kept, and the recovery key opens it', async () => {
    const recovery = sealPair(Buffer.alloc(32, 5))
    device.rig.recoveryKey = recovery.publicHex
    await device.rig.backUp('tool')
    const sealed = device.head()?.sealed ?? ''
    await device.rig.stop()
    rmSync(join(device.rig.core.persist, 'backup/password'))
    await device.rig.start()
    await device.rig.core.untilSettled('tool')
    await device.rig.backUp('tool')
    expect(device.events('backup-repository-aside')[0]?.fields).toMatchObject({ why: 'its password file is lost' })
    expect(device.head()?.repository).toBe(`${DEVICE}.2`)
    const [kept] = readdirSync(join(device.rig.backups, 'aside')).filter((name) => !name.endsWith('.password'))
    const opened = execFileSync(
      'restic',
      ['-r', join(device.rig.backups, 'aside', kept ?? ''), '--no-cache', 'snapshots'],
      {
        env: { ...process.env, RESTIC_PASSWORD: unseal(sealed, recovery.secret) },
      },
    )
    expect(opened.toString()).toContain('container=tool')
    expect(await device.rig.keeper.list('tool')).toHaveLength(1)
  })

  it('come back when the restored container does not stay up', async () => {
    await device.rig.backUp('tool')
    device.inside('echo later > /data/file')
    const before = device.files()
    const id = (await device.rig.core.inspect('tool')).Id
    // A restore follows the file as it is now; the container of the backup would run.
    const resume = await device.rig.core.reconciler.suspend('tool', 'the test')
    device.write(POLICY, { entrypoint: ['/bin/false'] })
    const { job } = await device.rig.keeper.restore('tool', undefined, false)
    expect((await device.rig.ended(job)).result).toMatch(/does not stay up; what was there is back/)
    expect(device.files()).toEqual(before)
    expect((await device.rig.core.inspect('tool')).Id).toBe(id)
    expect(await device.state()).toMatchObject({ Running: true })
    device.write(POLICY)
    resume()
  })

  it('come back after a cut in the middle of a restore whose container cannot start, and hold nothing else back', async () => {
    await device.rig.backUp('tool')
    device.inside('echo later > /data/file')
    const later = device.files()
    const { Id } = await device.rig.core.inspect('tool')
    const resume = await device.rig.core.reconciler.suspend('tool', 'the test')
    device.write(POLICY, { entrypoint: ['/no/such/program'] })
    device.rig.cutAt = 'switch'
    const { job } = await device.rig.keeper.restore('tool', undefined, false)
    expect(await device.rig.ended(job)).toMatchObject({ state: 'failed', result: 'cut off' })
    device.rig.cutAt = undefined
    resume()
    await device.rig.stop()
    device.write(POLICY)
    await device.rig.start()
    await device.rig.core.untilSettled('tool')
    expect(device.events('restore-interrupted')[0]?.fields['what']).toMatch(
      /could not be finished, what was there is back/,
    )
    expect(device.files()).toEqual(later)
    expect((await device.rig.core.inspect('tool')).Id).toBe(Id)
    expect(await device.state()).toMatchObject({ Running: true })
  })

  it('keep all that a wanted backup needs through a prune', async () => {
    const seen: (readonly string[])[] = []
    for (let n = 0; n < 4; n += 1) {
      device.inside(`head -c 3000000 /dev/urandom > /data/big${n}; rm -f /data/big${n - 2}`)
      seen.push(device.files())
      await device.rig.backUp('tool')
    }
    const before = device.packs().length
    const keep = { last: 2, hourly: 0, daily: 0, weekly: 0, monthly: 0 }
    const signal = AbortSignal.timeout(120_000)
    expect(await device.rig.own.forget(new Map([['tool', keep]]), true, signal)).toBe(2)
    await device.rig.own.publish(signal)
    expect(device.packs().length).toBeLessThan(before)
    expect(await device.rig.ended(device.rig.keeper.verify(true))).toMatchObject({ state: 'done' })
    const [older, newer] = await device.rig.keeper.list('tool')
    await device.rig.restore('tool', older?.id)
    expect(device.files()).toEqual(seen[2])
    await device.rig.restore('tool', newer?.id)
    expect(device.files()).toEqual(seen[3])
  })
})

/** The restic that works on a directory. @throws when there is none for ten seconds */
async function resticPid(directory: string): Promise<number> {
  for (const deadline = performance.now() + 10_000; performance.now() < deadline; await pause(5)) {
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      try {
        const [program, , command] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
        const environment = readFileSync(`/proc/${pid}/environ`, 'utf8')
        if (program === 'restic' && command === 'backup' && environment.includes(directory)) return Number(pid)
      } catch {
        // it ended meanwhile
      }
    }
  }
  throw new Error('no restic runs')
}
