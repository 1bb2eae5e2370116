import { describe, expect, it } from 'vitest'
import { type Artifact, encodeRelease } from '../../protocol/release/description.ts'
import { sampleDescription } from '../../protocol/release/sample-description.ts'
import { BOOT_RESERVE_BYTES, planSlotWrite } from './plan-slot-write.ts'

const artifact = (name: string, kind: Artifact['kind'], lengthBytes: number): Artifact => ({
  name,
  kind,
  lengthBytes,
  sha256: 'a'.repeat(64),
  index: { lengthBytes: 60, sha256: 'b'.repeat(64) },
})
const { id, description } = encodeRelease(
  sampleDescription({
    artifacts: [
      artifact('Image', 'kernel', 1_000),
      artifact('overlays/deep/x.dtbo', 'dtb', 10),
      artifact('containers/nav.tar', 'container-image', 5_000),
    ],
  }),
)

describe('the plan that fills a slot', () => {
  it('makes the slot unbootable first and matches everything last', () => {
    const types = planSlotWrite(id, description, 2 ** 30).map((step) => step.type)
    expect(types[0]).toBe('invalidate')
    expect(types.lastIndexOf('complete')).toBeLessThan(types.indexOf('write-description'))
    expect(types.lastIndexOf('flush-directory')).toBeLessThan(types.indexOf('verify'))
    expect(types.at(-1)).toBe('verify-description')
  })

  it('flushes every directory above a new file, deepest first, on the disk that holds it', () => {
    const flushed = planSlotWrite(id, description, 2 ** 30).flatMap((step) =>
      step.type === 'flush-directory' ? [`${step.area}:${step.path}`] : [],
    )
    const slot = `releases/${id.slice(0, 16)}`
    expect(flushed).toEqual(
      expect.arrayContaining([
        `boot:${slot}/overlays/deep`,
        `boot:${slot}/overlays`,
        `boot:${slot}`,
        'boot:releases',
        'persist:artifacts',
      ]),
    )
    expect(flushed.indexOf(`boot:${slot}/overlays/deep`)).toBeLessThan(flushed.indexOf(`boot:${slot}`))
  })

  it('needs room on the boot area only for what the loader reads, and says both numbers when there is none', () => {
    const needed = 1_010 + BOOT_RESERVE_BYTES
    expect(planSlotWrite(id, description, needed).length).toBeGreaterThan(8)
    expect(() => planSlotWrite(id, description, needed - 1)).toThrow(
      expect.objectContaining({ code: 'NOT_ENOUGH_SPACE', details: { neededBytes: needed, freeBytes: needed - 1 } }),
    )
  })
})
