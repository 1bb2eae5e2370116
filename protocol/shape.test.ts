import { describe, expect, it } from 'vitest'
import { shape } from './shape.ts'

describe('a whole number from outside', () => {
  it.each(['-0', '1.5', '9007199254740992', '-1', '11', '"1"', 'null'])('is not %s', (text) => {
    expect(() => shape.integer(JSON.parse(text), 'at', 0, 10)).toThrow('at: wanted a whole number from 0 to 10')
  })

  it.each(['0', '1e1', '1.0'])('may be written %s', (text) => {
    expect(shape.integer(JSON.parse(text), 'at', 0, 10)).toBe(Number(text))
  })
})
