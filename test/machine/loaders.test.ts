import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { SLOTS_DIRECTORY } from '../../protocol/boot/slot-layout.ts'
import { checkBootPartition, writeBootFile } from './boot-files.ts'
import { GOOD, LoaderRig, ON_TRIAL, TRIAL } from './loader-rig.ts'
import { LOADER_FAMILIES } from './virtual-board.ts'

describe.each(LOADER_FAMILIES)('the loader of %s, in a virtual machine', { timeout: 900_000 }, (family) => {
  let rig: LoaderRig

  beforeAll(() => {
    rig = new LoaderRig(family)
  })
  afterAll(() => rig.close())

  it('counts the tries of a release, falls back by itself, and bears power cuts', async () => {
    const disk = rig.newDisk()
    expect(await rig.control(disk, GOOD, (control) => control.counterMoves())).toBe(false)
    expect(await rig.run(disk, 1)).toEqual([GOOD])
    await rig.control(disk, GOOD, async (control) => {
      expect(await control.counterMoves()).toBe(true)
      await control.arm(TRIAL, 1)
      expect(await control.remaining(TRIAL)).toBe(1)
    })
    expect(await rig.run(disk, 2)).toEqual([ON_TRIAL, GOOD])
    expect(await rig.control(disk, GOOD, (control) => control.remaining(TRIAL))).toBe(0)
    expect(checkBootPartition(disk, rig.root)).toBe('')
    // Again, with the plug pulled while the loader counts, and then a kernel that is garbage.
    await rig.control(disk, GOOD, (control) => control.arm(TRIAL, 3))
    for (const afterMs of [1_500, 2_500, 4_000]) await rig.cutAfter(disk, afterMs)
    writeBootFile(disk, `${SLOTS_DIRECTORY}/${TRIAL}/Image`, Buffer.alloc(1 << 20, 0xa5))
    expect(await rig.run(disk, 1)).toEqual([GOOD])
    expect(checkBootPartition(disk, rig.root, true)).toBe('')
  })
})
