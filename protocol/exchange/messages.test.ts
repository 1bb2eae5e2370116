import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { FlotillaError } from '../errors.ts'
import { encodeExchangeMessage, type ExchangeMessage, parseExchangeMessage } from './messages.ts'

const hash = fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes).toString('hex'))
const chunk = fc.integer({ min: 0, max: 2 ** 32 - 1 })
const chunks = fc.array(chunk, { maxLength: 512 })
const bytes = fc.uint8Array({ minLength: 1, maxLength: 2_000 })

const message: fc.Arbitrary<ExchangeMessage> = fc.oneof(
  fc.record({ type: fc.constant('ask' as const), artifact: hash }),
  fc.record({
    type: fc.constantFrom('want' as const, 'cancel' as const, 'gained' as const, 'lost' as const),
    artifact: hash,
    chunks,
  }),
  fc.record({ type: fc.constant('fetch' as const), sha256: hash, maxBytes: chunk }),
  fc.record({ type: fc.constant('chunk' as const), artifact: hash, chunk, payload: bytes }),
  fc.record({
    type: fc.constant('reject' as const),
    artifact: hash,
    chunk,
    code: fc.constantFrom('gone' as const, 'busy' as const, 'policy' as const),
  }),
  fc.record({ type: fc.constant('blob' as const), sha256: hash, payload: bytes }),
  fc.record({ type: fc.constant('no-blob' as const), sha256: hash }),
  fc
    .record({ type: fc.constant('have' as const), artifact: hash, bits: bytes })
    .map((have) => ({ ...have, size: have.bits.length * 8 })),
)

describe('an exchange message', () => {
  it('reads back as it was written', () => {
    fc.assert(
      fc.property(message, (original) => {
        const read = parseExchangeMessage(encodeExchangeMessage(original))
        expect(inHex(read)).toEqual(inHex(original))
      }),
    )
  })

  it('is a value, nothing or BAD_FRAME for any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (junk) => {
        try {
          parseExchangeMessage(junk)
        } catch (error) {
          expect(error).toBeInstanceOf(FlotillaError)
          expect(error).toMatchObject({ code: 'BAD_FRAME' })
        }
      }),
      { numRuns: 1_000 },
    )
  })

  it('ignores types that a newer peer may send', () => {
    expect(parseExchangeMessage(Buffer.concat([Buffer.of(200), Buffer.alloc(40)]))).toBeUndefined()
  })
})

function inHex(value: object | undefined): unknown {
  const entries = Object.entries(value ?? {})
  return Object.fromEntries(
    entries.map(([key, member]) => [key, member instanceof Uint8Array ? Buffer.from(member).toString('hex') : member]),
  )
}
