import { describe, expect, it } from 'vitest'
import { OpenCount } from './open-count.ts'

describe('what is open at once', () => {
  it('is counted for each key, until it ends, once', () => {
    const open = new OpenCount(2)
    const first = open.take('a')
    expect(first).toBeDefined()
    expect(open.take('a')).toBeDefined()
    expect(open.take('a')).toBeUndefined()
    expect(open.take('b')).toBeDefined()
    first?.()
    first?.() // closed twice makes room for one
    expect(open.take('a')).toBeDefined()
    expect(open.take('a')).toBeUndefined()
  })

  it('is forgotten when nothing is open any more', () => {
    const open = new OpenCount(1)
    const end = open.take('a')
    expect(open.has('a')).toBe(true)
    end?.()
    expect(open.has('a')).toBe(false)
  })
})
