import { describe, expect, it } from 'vitest'
import { COMMAND_LINE, GOOD, STUCK, TRIAL, useTrialDisk } from './trial-disk.ts'

const made = useTrialDisk()

describe('a boot on trial, in a virtual machine', () => {
  it('leaves how far it came, with the boot partition read-only and sound, for the longest trial that there is', async () => {
    const disk = made()
    const { console, ended } = await disk.boot(`flotilla.slot=${TRIAL} flotilla.trial=90000`)
    expect(console).toContain('guard: flotilla-guard')
    // Not what was in memory of the file before.
    expect(console).toContain('traced: system')
    expect(ended).toBe(true)
    expect(disk.trace()).toEqual({ slot: TRIAL, stage: 'system', why: '' })
    expect(disk.check()).toBe('')
  })

  it('is reset when nobody confirms it, and that is written down', async () => {
    const disk = made()
    const { console, ended } = await disk.boot(`flotilla.slot=${STUCK} flotilla.trial=5`)
    expect(console).toContain('flotilla-guard: the release was not confirmed within 5 s; reset')
    expect(ended).toBe(true)
    const why = 'the release was not confirmed within 5 s'
    expect(disk.trace()).toEqual({ slot: STUCK, stage: 'system', why })
  })

  it('takes a try first, and starts what is on trial with its own arguments', async () => {
    const disk = made()
    disk.setRecord({ trial: TRIAL, tries: 3 })
    const { console } = await disk.boot(`flotilla.slot=${GOOD} flotilla.select=1`)
    expect(console).toContain(`on trial: ${TRIAL}, 2 tries left`)
    expect(console).toContain(`started: ${COMMAND_LINE} flotilla.slot=${TRIAL} flotilla.trial=60\r\n`)
    expect(disk.records()[0]).toMatchObject({ seq: 8, trial: TRIAL, tries: 2 })
    expect(disk.records()[1]).toMatchObject({ seq: 7, tries: 3 })
    expect(disk.trace()).toEqual({ slot: TRIAL, stage: 'system', why: '' })
    expect(disk.check()).toBe('')
  })
})
