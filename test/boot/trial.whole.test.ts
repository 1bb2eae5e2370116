import { describe, expect, it } from 'vitest'
import { emptyTrace } from '../../protocol/boot/boot-trace.ts'
import { GOOD, TRIAL, useTrialDisk } from './trial-disk.ts'

const made = useTrialDisk()

describe('a boot on trial and what can be wrong, in a virtual machine', () => {
  it('leaves nothing when it is not on trial, and has no guard', async () => {
    const disk = made()
    const { console } = await disk.boot(`flotilla.slot=${GOOD}`)
    expect(console).toContain('guard: \r\n')
    expect(disk.read('trace')).toEqual(Buffer.from(emptyTrace()))
  })

  it('is refused when its root rotted and it is to be verified', async () => {
    const disk = made()
    expect((await disk.boot(`flotilla.slot=${TRIAL} flotilla.verify=1`)).console).toContain('started: ')
    const rootfs = disk.read(`releases/${TRIAL}/rootfs.squashfs`)
    rootfs[rootfs.length >> 1] = (rootfs[rootfs.length >> 1] ?? 0) ^ 1
    disk.overwrite(`releases/${TRIAL}/rootfs.squashfs`, rootfs)
    const { console } = await disk.boot(`flotilla.slot=${TRIAL} flotilla.trial=60 flotilla.verify=1`)
    const why = "rootfs.squashfs does not match the release's description"
    expect(console).toContain(`cannot start: ${why}`)
    expect(disk.trace()).toEqual({ slot: TRIAL, stage: 'initramfs', why })
  })

  it('goes on with the good slot when no try is left, and answers that it counts', async () => {
    const disk = made()
    disk.setRecord({ trial: TRIAL, tries: 0, canaryAsked: 5, canarySeen: 4 })
    expect((await disk.boot(`flotilla.slot=${GOOD} flotilla.select=1`)).console).toMatch(
      new RegExp(`started: .*flotilla.slot=${GOOD} flotilla.select=1`),
    )
    expect(disk.records()[0]).toMatchObject({ seq: 8, trial: TRIAL, tries: 0, canaryAsked: 5, canarySeen: 5 })
  })

  it('gives up a kernel that does not load, and says so', async () => {
    const disk = made()
    disk.setRecord({ trial: TRIAL, tries: 3 })
    disk.overwrite(`releases/${TRIAL}/kernel`, Buffer.alloc(100_000, 7))
    const { console } = await disk.boot(`flotilla.slot=${GOOD} flotilla.select=1`)
    expect(console).toContain(`${TRIAL} cannot be started: kexec_file_load: `)
    expect(console).toMatch(new RegExp(`started: .*flotilla.slot=${GOOD} `))
    expect(disk.records()[1]).toMatchObject({ seq: 9, trial: TRIAL, tries: 0, loadFailed: true })
  })

  it('goes on with what runs when both records are torn, and begins new ones', async () => {
    const disk = made()
    disk.overwrite('select.0', new Uint8Array(512))
    const { console } = await disk.boot(`flotilla.slot=${GOOD} flotilla.select=1`)
    expect(console).toContain(`both boot records are damaged: ${GOOD} goes on`)
    expect(disk.records()[0]).toMatchObject({ seq: 1, good: GOOD, trial: undefined, tries: 0 })
  })
})
