import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { bootTogether, collectImages } from './collect-images.ts'

let root: string
const manifest = (change: object) =>
  writeFileSync(
    join(root, 'flotilla.json'),
    JSON.stringify({ schema: 1, board: 'pi-4', hardware: [], layers: 'pi/4', buildroot: '1', files: [], ...change }),
  )

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'flotilla-collect-'))
  mkdirSync(join(root, 'rpi-firmware/overlays'), { recursive: true })
  writeFileSync(join(root, 'rpi-firmware/overlays/disable-bt.dtbo'), '')
  for (const name of [
    'Image',
    'rootfs.squashfs',
    'rootfs.ext2',
    'u-boot.bin',
    'a.dtb',
    'rpi-firmware/start4.elf',
    'rpi-firmware/x.dtb',
  ])
    writeFileSync(join(root, name), '')
})
afterEach(() => rmSync(root, { recursive: true }))

describe('images of a build', () => {
  it('are those that boot together; loaders and other forms of the root are not', () => {
    expect(bootTogether(root)).toEqual(['Image', 'a.dtb', 'rootfs.squashfs'])
  })

  it('are those that a manifest names; without one all that is there', () => {
    manifest({ files: ['rootfs.squashfs', 'Image'] })
    expect(collectImages(root).map(({ name, kind }) => [name, kind])).toEqual([
      ['Image', 'kernel'],
      ['rootfs.squashfs', 'rootfs'],
    ])
    rmSync(join(root, 'flotilla.json'))
    expect(collectImages(root).map(({ name }) => name)).toContain('rpi-firmware/start4.elf')
  })

  it('are refused when the manifest names what is not there, or a path that leads out of it', () => {
    manifest({ files: ['Image', 'rootfs.squashfs', 'modules.squashfs'] })
    expect(() => collectImages(root)).toThrow(/flotilla.json names modules.squashfs, which is not there/)
    for (const path of ['../Image', '/Image', 'a//b', './Image']) {
      manifest({ files: [path] })
      expect(() => collectImages(root)).toThrow(/is not a path below it/)
    }
    manifest({ schema: 2 })
    expect(() => collectImages(root)).toThrow(/schema/)
  })
})
