import { execFileSync } from 'node:child_process'
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { compareImages, describeDifference } from './compare-images.ts'

let root: string
const at = (path: string) => join(root, path)
const said = () => {
  const found = compareImages(at('a'), at('b'))
  return found === undefined ? undefined : describeDifference(found)
}

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'flotilla-compare-test-'))
  mkdirSync(at('a/boot'), { recursive: true })
  writeFileSync(at('a/Image'), 'kernel')
  writeFileSync(at('a/boot/config.txt'), 'x=1\n')
  symlinkSync('Image', at('a/kernel'))
  cpSync(at('a'), at('b'), { recursive: true, verbatimSymlinks: true })
})
afterEach(() => rmSync(root, { recursive: true }))

describe('two builds', () => {
  it('are the same when every name, mode, link and byte is', () => {
    expect(said()).toBeUndefined()
  })

  it('differ first in the file that comes first, with the byte', () => {
    writeFileSync(at('b/boot/config.txt'), 'x=2\n')
    writeFileSync(at('b/zImage'), '')
    expect(said()).toBe('boot/config.txt: byte 2')
    writeFileSync(at('b/Image'), 'kernels')
    expect(said()).toBe('Image: byte 6; 6 and 7 bytes')
    expect(describeDifference(compareImages(at('a/Image'), at('b/Image')) ?? expect.fail())).toBe(
      'byte 6; 6 and 7 bytes',
    )
  })

  it('differ when one has a file more, another mode, another link', () => {
    chmodSync(at('b/Image'), 0o600)
    expect(said()).toMatch(/^Image: mode 100644 and 100600$/)
    rmSync(at('b/Image'))
    expect(said()).toBe(`Image: only in ${at('a')}`)
    rmSync(at('a/Image'))
    rmSync(at('b/kernel'))
    symlinkSync('zImage', at('b/kernel'))
    expect(said()).toBe('kernel: a link to Image and to zImage')
  })

  it('are looked into where a squashfs differs: a file in it, or only how it was packed', () => {
    for (const side of ['a', 'b']) {
      mkdirSync(at(`tree-${side}/etc`), { recursive: true })
      writeFileSync(at(`tree-${side}/etc/hostname`), `robot-${side}\n`)
      pack(side, '0')
    }
    expect(said()).toMatch(/^rootfs.squashfs: byte \d+.*; in it etc\/hostname: byte 6$/)
    writeFileSync(at('tree-b/etc/hostname'), 'robot-a\n')
    pack('b', '1')
    expect(said()).toMatch(/^rootfs.squashfs: byte \d+$/)
  })

  it('cannot be compared when one is missing', () => {
    expect(() => compareImages(at('a'), at('c'))).toThrow(/compare .* with .*\/c: ENOENT/)
  })
})

function pack(side: string, time: string): void {
  rmSync(at(`${side}/rootfs.squashfs`), { force: true })
  const options = ['-quiet', '-no-progress', '-all-root', '-all-time', '0', '-mkfs-time', time]
  execFileSync('mksquashfs', [at(`tree-${side}`), at(`${side}/rootfs.squashfs`), ...options], { stdio: 'ignore' })
}
