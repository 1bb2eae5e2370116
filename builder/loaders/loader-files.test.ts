import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { encodeEnvironment, GRUB_FORMAT, UBOOT_FORMAT } from '../../protocol/boot/environment-record.ts'
import type { BootFamily } from '../../protocol/boot/slot-files.ts'
import { loaderFiles } from './loader-files.ts'
import { encodeScriptImage } from './script-image.ts'
import { UBOOT_SCRIPT } from './uboot-script.ts'

const SLOT = '0123456789abcdef'
const BOOT = {
  slot: SLOT,
  kernel: 'Image',
  initramfs: 'initramfs.cpio.gz',
  deviceTree: 'board.dtb',
  commandLine: 'console=ttyS0,115200 panic=10',
  trialSeconds: 300,
}
const RECORD = {
  seq: 2,
  good: SLOT,
  trial: 'fedcba9876543210',
  tries: 3,
  canaryAsked: 5,
  canarySeen: 4,
  loadFailed: false,
}

let area: string

beforeEach(() => {
  area = mkdtempSync(join(tmpdir(), 'flotilla-loader-'))
})
afterEach(() => rmSync(area, { recursive: true }))

function write(family: BootFamily, arch: string): void {
  for (const { path, bytes } of loaderFiles(family, SLOT, BOOT, arch)) {
    mkdirSync(dirname(join(area, path)), { recursive: true })
    writeFileSync(join(area, path), bytes)
  }
}

describe('what the builder writes, read by the real programs', () => {
  it.each([
    ['arm64', 'AArch64'],
    ['arm', 'ARM'],
  ] as const)("makes the script that U-Boot's mkimage makes, for %s", (machine, name) => {
    const [text, image] = [join(area, 'boot.cmd'), join(area, 'boot.scr')]
    writeFileSync(text, UBOOT_SCRIPT)
    const options = ['-T', 'script', '-A', machine, '-O', 'linux', '-C', 'none', '-n', 'flotilla', '-d', text, image]
    execFileSync('mkimage', options, { stdio: 'ignore', env: { ...process.env, SOURCE_DATE_EPOCH: '0' } })
    expect(Buffer.from(encodeScriptImage(UBOOT_SCRIPT, machine))).toEqual(readFileSync(image))
    expect(execFileSync('mkimage', ['-l', image], { encoding: 'utf8' })).toContain(`${name} Linux Script`)
  })

  it('writes boot records that fw_printenv reads, and reads those that fw_setenv writes', () => {
    write('uboot', 'aarch64')
    const path = join(area, 'select.0')
    writeFileSync(path, UBOOT_FORMAT.encode(RECORD))
    writeFileSync(join(area, 'fw_env.config'), `${path} 0x0 0x200\n`)
    const config = ['-c', join(area, 'fw_env.config')]
    const lines = execFileSync('fw_printenv', config, { encoding: 'utf8' }).trim().split('\n').sort()
    expect(lines).toEqual([
      'fl_asked=5',
      `fl_good=${SLOT}`,
      'fl_note=none',
      'fl_seen=4',
      'fl_seq=2',
      'fl_trial=fedcba9876543210',
      'fl_tries=3',
    ])
    execFileSync('fw_setenv', [...config, 'fl_tries', '2'])
    expect(UBOOT_FORMAT.parse(readFileSync(path))).toEqual({ ...RECORD, tries: 2 })
  })

  it('makes environments as mkenvimage does', () => {
    writeFileSync(join(area, 'text'), 'a=1\nb=x y\n')
    execFileSync('mkenvimage', ['-s', '512', '-p', '0x00', '-o', join(area, 'blob'), join(area, 'text')])
    const variables = new Map([
      ['a', '1'],
      ['b', 'x y'],
    ])
    expect(Buffer.from(encodeEnvironment(variables, 512))).toEqual(readFileSync(join(area, 'blob')))
  })

  it('writes boot records that grub-editenv reads and writes', () => {
    write('grub', 'x86_64')
    const path = join(area, 'select.1')
    writeFileSync(path, GRUB_FORMAT.encode(RECORD))
    const list = execFileSync('grub-editenv', [path, 'list'], { encoding: 'utf8' })
    expect(list.split('\n')).toContain(`fl_good=${SLOT}`)
    const check = `2,${SLOT},fedcba9876543210,2,5,4,none`
    execFileSync('grub-editenv', [path, 'set', 'fl_tries=2'])
    expect(GRUB_FORMAT.parse(readFileSync(path))).toBe(undefined) // not what it says of itself
    execFileSync('grub-editenv', [path, 'set', `fl_check=${check}`])
    expect(GRUB_FORMAT.parse(readFileSync(path))).toEqual({ ...RECORD, tries: 2 })
  })

  it("has a configuration that GRUB's own parser takes", () => {
    write('grub', 'x86_64')
    execFileSync('grub-script-check', [join(area, 'boot/grub/grub.cfg')])
  })

  it('writes entries that bootctl lists as they are meant', () => {
    write('systemd-boot', 'x86_64')
    const slot = join(area, 'releases', SLOT)
    mkdirSync(slot, { recursive: true })
    for (const name of [BOOT.kernel, BOOT.initramfs]) writeFileSync(join(slot, name), '')
    // It wants a file system of its own.
    const script = `mount -t tmpfs none /mnt && cp -r '${area}/.' /mnt && bootctl --esp-path=/mnt --json=pretty list`
    const output = execFileSync('unshare', ['-m', 'sh', '-c', script], {
      encoding: 'utf8',
      env: { ...process.env, SYSTEMD_RELAX_ESP_CHECKS: '1' },
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    type Entry = {
      id: string
      version: string
      options: string
      linux: string
      architecture: string
      triesLeft?: number
    }
    const entries = output.split(/^(?=\{$)/m).map((text) => JSON.parse(text) as Entry)
    const words = `console=ttyS0,115200 panic=10 flotilla.slot=${SLOT}`
    const shared = { linux: `/releases/${SLOT}/Image`, options: words }
    expect(entries).toMatchObject([
      { ...shared, id: 'flotilla-trial.conf', version: '0000000000', architecture: 'x64', triesLeft: 9, triesDone: 0 },
      { ...shared, id: 'flotilla-a.conf', version: '0000000001', architecture: 'x64' },
      { ...shared, id: 'flotilla-b.conf', version: '0000000000', architecture: '-64' },
    ])
  })
})
