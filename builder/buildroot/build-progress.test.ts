import { describe, expect, it } from 'vitest'
import { BuildProgress } from './build-progress.ts'

function follow(text: string, total = 0): BuildProgress {
  const progress = new BuildProgress(total)
  for (const line of text.split('\n')) progress.take(line)
  return progress
}

describe('the progress of a build', () => {
  it('counts packages, not steps, in the escapes that Buildroot prints', () => {
    const progress = follow(
      '\x1b[7m>>> host-m4 1.4.19 Downloading\x1b[27m\n>>> host-m4 1.4.19 Building\n>>> zlib  Extracting',
      40,
    )
    expect(progress.step).toEqual({ package: 'zlib', step: 'Extracting', begun: 2, total: 40 })
  })

  it('takes the step whole where a package has no version', () => {
    const { step } = follow('>>> toolchain-external-custom  Copying external toolchain libraries to target...')
    expect(step?.step).toBe('Copying external toolchain libraries to target...')
  })

  it('finds the first real error and its package, not the last lines of make', () => {
    const { error } = follow(`>>> busybox 1.37.0 Building
  CC      libbb/error.o
gcc -Wno-error=format -c x.c
networking/tc.c:236:27: error: 'TCA_CBQ_MAX' undeclared
make[2]: *** [scripts/Makefile.build:197: networking/tc.o] Error 1
make[1]: *** [package/pkg-generic.mk:289: build] Error 2
make: *** [Makefile:83: _all] Error 2`)
    expect(error).toEqual({
      package: 'busybox',
      step: 'Building',
      line: "networking/tc.c:236:27: error: 'TCA_CBQ_MAX' undeclared",
      at: 4,
    })
  })

  it('takes what was said last before make stopped, whatever it looks like', () => {
    const { error } = follow(`>>> toolchain-external-custom  Configuring
C++ support is not selected but is available in external toolchain
make[1]: *** [package/pkg-generic.mk:263: .stamp_configured] Error 1
make: *** [Makefile:83: _all] Error 2`)
    expect(error).toEqual({
      package: 'toolchain-external-custom',
      step: 'Configuring',
      line: 'C++ support is not selected but is available in external toolchain',
      at: 2,
    })
  })

  it('does not blame a package that went on', () => {
    const { error } = follow(`>>> host-tar 1.35 Configuring
conftest.c:10: error: unknown type name 'foo'
>>> zlib 1.3 Building
make[1]: *** [package/pkg-generic.mk:289: zlib.built] Error 1`)
    expect(error).toMatchObject({
      package: 'zlib',
      line: 'make[1]: *** [package/pkg-generic.mk:289: zlib.built] Error 1',
    })
  })

  it('forgets what was said before it went on, and finds the error of the package that failed', () => {
    const { error } = follow(`>>> host-tar 1.35 Configuring
conftest.c:10: error: unknown type name 'foo'
>>> zlib 1.3 Building
zlib.c:7: error: this one stops it
make[1]: *** [zlib.built] Error 1`)
    expect(error).toMatchObject({ package: 'zlib', line: 'zlib.c:7: error: this one stops it' })
  })

  it.each([
    ['patching file a.c\nHunk #1 FAILED at 3.', 'Hunk #1 FAILED at 3.'],
    [
      'ERROR: while checking hashes from package/zlib/zlib.hash',
      'ERROR: while checking hashes from package/zlib/zlib.hash',
    ],
    ['cp: error writing x: No space left on device', 'cp: error writing x: No space left on device'],
    ['ld: cannot find -lfoo', 'ld: cannot find -lfoo'],
    ['x/missing: line 81: makeinfo: command not found\nhints', 'x/missing: line 81: makeinfo: command not found'],
  ])('knows %j for what it is', (text, line) => {
    expect(follow(`>>> zlib 1 Patching\n${text}\nmake: *** [x] Error 1`).error).toMatchObject({ package: 'zlib', line })
  })

  it('says nothing when nothing failed', () => {
    expect(follow('>>> zlib 1 Building\nwarning: x').error).toBeUndefined()
  })
})
