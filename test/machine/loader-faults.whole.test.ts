import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
import { changeBootFiles, removeBootFile, writeBootFile } from './boot-files.ts'
import { GOOD, LoaderRig, ON_TRIAL, TRIAL } from './loader-rig.ts'
import { LOADER_FAMILIES } from './virtual-board.ts'

const slotPath = (name: string) => `${SLOTS_DIRECTORY}/${TRIAL}/${name}`

describe.each(LOADER_FAMILIES)('the loader of %s, in a virtual machine', (family) => {
  let rig: LoaderRig

  beforeAll(() => {
    rig = new LoaderRig(family)
  })
  afterAll(() => rig.close())

  it('stays with a release that was confirmed, which is on trial no more, and tries the other one then', async () => {
    const disk = await rig.armed(3)
    expect(await rig.run(disk, 1)).toEqual([ON_TRIAL])
    await rig.control(disk, TRIAL, (control) => control.markGood(TRIAL))
    expect(await rig.run(disk, 2)).toEqual([TRIAL, TRIAL])
    await rig.control(disk, TRIAL, (control) => control.arm(GOOD, 2))
    const again = ON_TRIAL.replace(TRIAL, GOOD)
    expect(await rig.run(disk, 3)).toEqual([again, again, TRIAL])
  })
})

const SPOILED = [
  ['a kernel of zeros', (disk: string) => writeBootFile(disk, slotPath('Image'), Buffer.alloc(8 << 20))],
  ['an empty kernel', (disk: string) => writeBootFile(disk, slotPath('Image'), Buffer.alloc(0))],
  ['no initramfs', (disk: string) => removeBootFile(disk, slotPath('initramfs.cpio.gz'))],
] as const

describe('the loader of systemd-boot and what can be wrong, in a virtual machine', () => {
  let rig: LoaderRig

  beforeAll(() => {
    rig = new LoaderRig('systemd-boot')
  })
  afterAll(() => rig.close())

  // What the firmware does with a bad file uses up the tries; systemd-boot keeps no note of it.
  it.each(SPOILED)('falls back from a release with %s', async (_what, spoil) => {
    const disk = await rig.armed(2)
    spoil(disk)
    expect(await rig.run(disk, 1)).toEqual([GOOD])
    expect(await rig.control(disk, GOOD, (control) => control.remaining(TRIAL))).toBe(0)
  })

  it('passes by an entry without a kernel: no try is taken, and the agent sees that', async () => {
    const disk = await rig.armed(2)
    removeBootFile(disk, slotPath('Image'))
    expect(await rig.run(disk, 1)).toEqual([GOOD])
    expect(await rig.control(disk, GOOD, (control) => control.remaining(TRIAL))).toBe(2)
  })

  it('goes on without counting where the firmware cannot write, which is why there is a canary', async () => {
    const disk = rig.newDisk()
    expect(await rig.run(disk, 2, { drive: ['readonly=on'] })).toEqual([GOOD, GOOD])
    await rig.control(disk, GOOD, async (control) => {
      expect(await control.counterMoves()).toBe(false)
      await expect(control.arm(TRIAL, 2)).rejects.toMatchObject({ code: 'BOOT_COUNTER_STUCK' })
    })
  })
})

describe.each(['grub', 'uboot'] as const)('the loader of %s and what can be wrong, in a virtual machine', (family) => {
  let rig: LoaderRig

  beforeAll(() => {
    rig = new LoaderRig(family)
  })
  afterAll(() => rig.close())

  const settings = family === 'grub' ? 'loader.cfg' : 'loader.env'
  it.each([
    ...SPOILED,
    ['no kernel', (disk: string) => removeBootFile(disk, slotPath('Image'))],
    ['no settings', (disk: string) => removeBootFile(disk, slotPath(settings))],
  ] as const)('falls back from a release with %s, and leaves a note', async (_what, spoil) => {
    const disk = await rig.armed(2)
    spoil(disk)
    expect(await rig.run(disk, 1)).toEqual([GOOD])
    await rig.control(disk, GOOD, async (control) => {
      expect(await control.remaining(TRIAL)).toBe(0)
      expect(await control.loadFailed()).toBe(true)
    })
  })
})

describe.each(['grub', 'uboot'] as const)('the records of %s, in a virtual machine', (family) => {
  let rig: LoaderRig

  beforeAll(() => {
    rig = new LoaderRig(family)
  })
  afterAll(() => rig.close())

  it('start nothing on trial that they cannot count', async () => {
    const disk = await rig.armed(2)
    expect(await rig.run(disk, 2, { drive: ['readonly=on'] })).toEqual([GOOD, GOOD])
    expect(await rig.run(disk, 1)).toEqual([ON_TRIAL])
  })

  /** As after a power cut in the middle of a write: the first half is new, the second is not. */
  const tear = (disk: string, names: readonly string[]) =>
    changeBootFiles(disk, (directory) => {
      for (const name of names) {
        const bytes = readFileSync(join(directory, name))
        bytes.fill(0x5a, 60, 120)
        writeFileSync(join(directory, name), bytes)
      }
      return Promise.resolve()
    })

  it.each([['select.0'], ['select.1']])('count on when %s is torn', async (name) => {
    const disk = rig.newDisk()
    await tear(disk, [name])
    expect(await rig.run(disk, 1)).toEqual([GOOD])
    await rig.control(disk, GOOD, async (control) => {
      expect(await control.counterMoves()).toBe(true)
      await control.arm(TRIAL, 2)
    })
    await rig.control(disk, GOOD, async (control) => expect(await control.remaining(TRIAL)).toBe(2))
    expect(await rig.run(disk, 3)).toEqual([ON_TRIAL, ON_TRIAL, GOOD])
  })

  it('start what was proven last when both are torn, and begin anew', async () => {
    const disk = await rig.armed(2)
    await tear(disk, ['select.0', 'select.1'])
    expect(await rig.run(disk, 2)).toEqual([GOOD, GOOD])
    await rig.control(disk, GOOD, async (control) => {
      expect(await control.good()).toBe(GOOD)
      expect(await control.remaining(TRIAL)).toBe(undefined)
    })
  })

  it('reset and say so when nothing is left', async () => {
    const disk = rig.newDisk()
    await tear(disk, ['select.0', 'select.1', 'select.rescue'])
    await rig.runUntil(disk, (console) => console.split('no release is known to start').length > 2)
  })

  it('go round with their sequence', async () => {
    const disk = rig.newDisk()
    expect(await rig.run(disk, 1)).toEqual([GOOD])
    for (const tries of [4, 3]) {
      await rig.control(disk, GOOD, (control) => control.arm(TRIAL, tries))
      expect(await rig.run(disk, tries + 1)).toEqual([...Array.from({ length: tries }, () => ON_TRIAL), GOOD])
      await rig.control(disk, GOOD, (control) => control.markBad(TRIAL))
      await rig.control(disk, GOOD, (control) => control.settle())
      expect(await rig.run(disk, 1)).toEqual([GOOD])
    }
  })
})
