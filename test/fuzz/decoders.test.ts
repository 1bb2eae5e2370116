import { describe, expect, it } from 'vitest'
import { seededRandom } from '../simulation/seeded-random.ts'
import { DECODERS } from './decoders.ts'
import { judgeRun } from './judge-run.ts'

const MUTATIONS = 400

/** Bytes with a few changes of the kinds that break decoders: flips, cuts, repeats, extremes. */
function mutate(seed: Uint8Array, random: () => number): Uint8Array {
  let bytes = Buffer.from(seed)
  const pick = (most: number) => Math.floor(random() * most)
  for (let n = 1 + pick(4); n > 0; n -= 1) {
    const at = pick(bytes.length + 1)
    switch (pick(5)) {
      case 0:
        if (bytes.length > 0) bytes[at % bytes.length] = pick(256)
        break
      case 1:
        bytes = bytes.subarray(0, at)
        break
      case 2:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(pick(at + 1), at + 20), bytes.subarray(at)])
        break
      case 3:
        bytes = Buffer.concat([bytes.subarray(0, at), Buffer.alloc(4, 0xff), bytes.subarray(at + 4)])
        break
      default:
        bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from('{}[]":,&*!'.charAt(pick(10))), bytes.subarray(at)])
    }
  }
  return Uint8Array.from(bytes)
}

/** A small, repeatable dose of what `npm run fuzz` does for hours. */
describe.each(Object.entries(DECODERS))('the decoder of %s', (_name, decoder) => {
  it('reads what our own encoder made', () => {
    for (const seed of decoder.seeds) expect(judgeRun(decoder, seed)).toBeUndefined()
  })

  it('gives a value or a coded error for any bytes', () => {
    const random = seededRandom(20_261_124)
    for (const seed of [...decoder.seeds, new Uint8Array()]) {
      for (let n = 0; n < MUTATIONS; n += 1) {
        const bytes = mutate(seed, random)
        expect(judgeRun(decoder, bytes), Buffer.from(bytes).toString('hex')).toBeUndefined()
      }
    }
  })
})
