import { describe, expect, it } from 'vitest'
import { parseSkiffCore } from './skiff-core.ts'

const backup = (text: string) =>
  parseSkiffCore(`containers:\n  nav:\n    image: i\n    backup: ${text}\n`, 'skiff-core.yaml').core.containers.get(
    'nav',
  )?.backup

describe('the backup policy of a container', () => {
  it('has defaults that lose nothing', () => {
    expect(backup('{}')).toEqual({
      schedule: undefined,
      fileSystem: true,
      mounts: undefined,
      exclude: [],
      consistency: 'pause',
      before: undefined,
      after: undefined,
      beforeUpgrade: true,
      keep: { last: 3, hourly: 24, daily: 7, weekly: 5, monthly: 12 },
      copies: 3,
      bytesPerSecond: undefined,
    })
  })

  it('is read with every key', () => {
    expect(
      backup(
        '{schedule: "03:30", fileSystem: false, mounts: [/maps], exclude: ["*.tmp"], consistency: stop, before: sync, after: [a, b], beforeUpgrade: false, keep: {last: 1}, copies: 0, bandwidthKiB: 2}',
      ),
    ).toMatchObject({
      schedule: { atMinute: 210 },
      mounts: ['/maps'],
      before: ['sync'],
      after: ['a', 'b'],
      keep: { last: 1, hourly: 0 },
      copies: 0,
      bytesPerSecond: 2_048,
    })
    for (const [text, seconds] of [
      ['hourly', 3_600],
      ['every 6h', 21_600],
      ['every 90m', 5_400],
      ['weekly', 604_800],
    ] as const)
      expect(backup(`{schedule: ${text}}`)?.schedule).toEqual({ everySeconds: seconds })
  })

  it.each([
    ['{schedule: never}', /wanted hourly/],
    ['{schedule: every 0h}', /wanted hourly/],
    ['{keep: {last: 0}}', /keeps no backup at all/],
    ['{copies: 9}', /whole number from 0 to 8/],
    ['{consistency: freeze}', /one of none, pause, stop/],
    ['{sched: daily}', /no such key: sched/],
  ])('says what is wrong, and where: %s', (text, words) => {
    expect(() => backup(text)).toThrow(words)
    expect(() => backup(text)).toThrow(/skiff-core.yaml:4:/)
  })
})
