import { execFileSync } from 'node:child_process'
import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { imageSet } from '../fleet/build-images.ts'

const MAIN = imageSet().flotilla
const ROOT = resolve(import.meta.dirname, '../..')
let root: string
const at = (path: string) => join(root, path)

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'flotilla-image-'))
  write('device/boot/releases/0123456789abcdef/rootfs.squashfs', 'root')
  write('device/boot/select.0', 'record')
  write('device/persist/identity.key', 'secret')
  write('device/agent.yaml', 'hardware: x\n')
  write('images/idbloader.img', 'SPL of the board')
  write('images/u-boot.itb', 'U-Boot of the board')
})
afterEach(() => rmSync(root, { recursive: true }))

function write(path: string, text: string): void {
  mkdirSync(join(at(path), '..'), { recursive: true })
  writeFileSync(at(path), text)
}

function flotilla(...args: string[]): { code: number; stdout: string; stderr: string } {
  try {
    const list = [MAIN, ...args]
    return {
      code: 0,
      stdout: execFileSync(process.execPath, list, { cwd: ROOT, encoding: 'utf8', stdio: 'pipe' }),
      stderr: '',
    }
  } catch (error) {
    const failed = error as { status: number; stdout: string; stderr: string }
    return { code: failed.status, stdout: failed.stdout, stderr: failed.stderr }
  }
}

const make = (...more: string[]) =>
  flotilla('image', 'make', at('x.img'), '--device', at('device'), '--images', at('images'), ...more)

function tool(program: string, ...args: string[]): string {
  const PATH = `${process.env['PATH']}:/usr/sbin:/sbin`
  return execFileSync(program, args, {
    encoding: 'utf8',
    env: { ...process.env, PATH },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
}

function partition(path: string, number: number): { start: number } {
  const { partitiontable } = JSON.parse(tool('sfdisk', '--json', path)) as {
    partitiontable: { partitions: { start: number }[] }
  }
  return partitiontable.partitions[number] ?? { start: Number.NaN }
}

/** From a sector on. */
function sha256(path: string, sector: number): string {
  return execFileSync('sh', ['-c', 'tail -c +"$2" "$1" | sha256sum', 'sh', path, String(sector * 512 + 1)], {
    encoding: 'utf8',
  })
}

describe('a disk image', () => {
  it('holds the boot loader where the boot ROM reads it, the releases on FAT, and the identity, which is root’s', () => {
    chownSync(at('device/persist/identity.key'), 1_234, 1_234)
    const made = make('--board', 'pine64/rockpro64', '--json')
    expect([made.code, made.stderr]).toEqual([0, ''])
    const { table, partitions } = JSON.parse(made.stdout) as { table: string; partitions: { startBytes: number }[] }
    const { partitiontable } = JSON.parse(tool('sfdisk', '--json', at('x.img'))) as {
      partitiontable: { label: string; partitions: { start: number; name: string }[] }
    }
    expect([table, partitiontable.label]).toEqual(['gpt', 'gpt'])
    expect(partitiontable.partitions.map(({ name }) => name)).toEqual(['BOOT', 'persist'])
    const [boot = 0, persist = 0] = partitions.map(({ startBytes }) => startBytes)
    const bytes = readFileSync(at('x.img'))
    expect(bytes.subarray(32_768, 32_784).toString()).toBe('SPL of the board')
    expect(bytes.subarray(8_388_608, 8_388_627).toString()).toBe('U-Boot of the board')
    tool('mcopy', '-s', '-i', `${at('x.img')}@@${boot}`, '::', at('out'))
    expect(readFileSync(at('out/releases/0123456789abcdef/rootfs.squashfs'), 'utf8')).toBe('root')
    expect(readFileSync(at('out/select.0'), 'utf8')).toBe('record')
    const where = `${at('x.img')}?offset=${persist}`
    expect(tool('debugfs', '-R', 'cat /flotilla/identity.key', where)).toBe('secret')
    expect(tool('debugfs', '-R', 'stat /flotilla/identity.key', where)).toMatch(/User: +0 +Group: +0/)
    expect(tool('debugfs', '-R', 'cat /flotilla/agent.yaml', where)).toBe('hardware: x\n')
    expect(statSync(at('x.img')).mode & 0o777).toBe(0o600)
    // A file system that starts at an offset is checked from there.
    execFileSync('dd', [`if=${at('x.img')}`, `of=${at('persist')}`, 'bs=1M', `skip=${persist / 2 ** 20}`], {
      stdio: 'ignore',
    })
    tool('e2fsck', '-fn', at('persist'))
  })

  it('is for the board that the images were built for, and keeps the code around the table of a dos disk', () => {
    writeFileSync(
      at('images/flotilla.json'),
      JSON.stringify({
        schema: 1,
        board: 'odroid-c2',
        hardware: ['h'],
        layers: 'odroid/c2',
        buildroot: '1',
        files: [],
      }),
    )
    write('images/u-boot.bin.sd.bin', 'A'.repeat(512) + 'B'.repeat(512))
    expect(make().code).toBe(0)
    const bytes = readFileSync(at('x.img'))
    expect(bytes.subarray(0, 440).toString()).toBe('A'.repeat(440))
    expect(bytes.subarray(512, 1_024).toString()).toBe('B'.repeat(512))
    expect(tool('sfdisk', '--dump', at('x.img'))).toMatch(/^label: dos/)
    expect(make().stderr).toMatch(/x.img: it exists \[ALREADY_EXISTS\]/)
  })

  it('has room for what persist holds, with inodes for the medium that it grows to', () => {
    write('device/persist/artifacts/image', 'x'.repeat(100 * 2 ** 20))
    expect(make('--board', 'pine64/rockpro64').code).toBe(0)
    const { partitiontable } = JSON.parse(tool('sfdisk', '--json', at('x.img'))) as {
      partitiontable: { partitions: { start: number }[] }
    }
    const where = `${at('x.img')}?offset=${(partitiontable.partitions[1]?.start ?? 0) * 512}`
    const words = tool('debugfs', '-R', 'show_super_stats -h', where)
    const number = (name: string) => Number(new RegExp(`^${name}: +(\\d+)`, 'm').exec(words)?.[1])
    expect((number('Block count') * 4_096) / number('Inode count')).toBeGreaterThan(12_000)
  })

  it('keeps what the device says boots, whatever the build brought', () => {
    write('images/rpi-firmware/config.txt', 'of the build')
    write('images/rpi-firmware/start4.elf', 'firmware')
    write('device/boot/config.txt', 'of the device')
    const { partitions } = JSON.parse(make('--board', 'pi/4', '--json').stdout) as {
      partitions: { startBytes: number }[]
    }
    tool('mcopy', '-s', '-i', `${at('x.img')}@@${partitions[0]?.startBytes}`, '::', at('out'))
    expect(readFileSync(at('out/config.txt'), 'utf8')).toBe('of the device')
    expect(readFileSync(at('out/start4.elf'), 'utf8')).toBe('firmware')
  })

  it('names what is missing, and leaves nothing behind', () => {
    rmSync(at('images/idbloader.img'))
    const lacks = make('--board', 'pine64/rockpro64')
    expect([lacks.code, lacks.stderr]).toEqual([
      4,
      expect.stringMatching(/lacks idbloader.img, which this board boots with/),
    ])
    write('images/idbloader.img', 'x')
    expect(make('--board', 'pine64/rockpro64', '--size', '100').stderr).toMatch(/NOT_ENOUGH_SPACE/)
    expect(make('--board', 'virt/docker').stderr).toMatch(/no disk image is made for virt\/docker/)
    expect(make('--board', 'pine64/nothing').stderr).toMatch(/is not a board/)
    expect(make().stderr).toMatch(/has no flotilla.json of flotilla compile; say --board/)
    write('images/u-boot.itb', 'x'.repeat(9 * 2 ** 20))
    expect(make('--board', 'pine64/rockpro64').stderr).toMatch(
      /u-boot.itb reaches to byte \d+, where the first partition/,
    )
    write('images/u-boot.itb', 'x')
    write('device/agent.yaml', 'boot: robot/boot\n')
    expect(make('--board', 'pine64/rockpro64').stderr).toMatch(/make it with flotilla device create --for-image/)
    rmSync(at('device/agent.yaml'))
    expect(make('--board', 'pine64/rockpro64').stderr).toMatch(/make it with flotilla device create/)
    expect(readdirSync(root).sort()).toEqual(['device', 'images'])
  })

  it('is installed over what boots, and persist stays; a medium that is laid out otherwise is refused', () => {
    const size = ['--boot-size', '320', '--size', '460', '--board', 'pine64/rockpro64']
    expect(make(...size).code).toBe(0)
    renameSync(at('x.img'), at('card'))
    truncateSync(at('card'), 480 * 2 ** 20)
    const device = tool('losetup', '--find', '--show', at('card')).trim()
    try {
      tool('sfdisk', '--quiet', '--no-reread', '--no-tell-kernel', '--relocate', 'gpt-bak-std', device)
      const { start } = partition(device, 1)
      tool('debugfs', '-w', '-R', 'mkdir /data-of-the-robot', `${device}?offset=${start * 512}`)
      const before = sha256(device, start)
      write('device/boot/select.0', 'another record')
      write('images/u-boot.itb', 'a newer U-Boot')
      expect(make(...size).code).toBe(0)
      const table = tool('sfdisk', '--dump', device)
      const installed = flotilla('image', 'install', at('x.img'), device, '--yes')
      expect([installed.code, installed.stdout]).toEqual([0, expect.stringMatching(/persist was not touched\n$/)])
      expect(sha256(device, start)).toBe(before)
      expect(tool('sfdisk', '--dump', device)).toBe(table)
      expect(tool('dd', `if=${device}`, 'bs=512', 'skip=16384', 'count=1', 'status=none')).toMatch(/^a newer U-Boot/)
      expect(tool('mtype', '-i', `${device}@@${partition(device, 0).start * 512}`, '::select.0')).toBe('another record')
      rmSync(at('x.img'))
      expect(make('--board', 'pine64/rockpro64', '--boot-size', '400').code).toBe(0)
      const small = flotilla('image', 'install', at('x.img'), device, '--yes')
      expect([small.code, small.stderr]).toEqual([5, expect.stringMatching(/make the image with --boot-size 320/)])
      tool('mkfs.ext4', '-q', '-F', device)
      expect(flotilla('image', 'install', at('x.img'), device, '--yes').code).toBe(2)
      expect(sha256(device, 0)).toBe(sha256(at('card'), 0))
    } finally {
      tool('losetup', '--detach', device)
    }
  })

  it('is written to a medium and read back; one in use is refused', () => {
    writeFileSync(at('card'), '')
    truncateSync(at('card'), 12 * 2 ** 20)
    writeFileSync(at('y.img'), Buffer.alloc(10 * 2 ** 20, 'image '))
    const device = tool('losetup', '--find', '--show', at('card')).trim()
    try {
      expect(flotilla('image', 'write', at('y.img'), device).stderr).toMatch(/no terminal to ask on; say --yes/)
      const written = flotilla('image', 'write', at('y.img'), device, '--yes')
      expect([written.code, written.stdout]).toEqual([0, expect.stringMatching(/read back and the same\n$/)])
      expect(
        readFileSync(at('card'))
          .subarray(0, 10 * 2 ** 20)
          .equals(readFileSync(at('y.img'))),
      ).toBe(true)
      tool('mkfs.ext4', '-q', device)
      mkdirSync(at('mnt'))
      tool('mount', '-t', 'ext4', device, at('mnt'))
      const busy = flotilla('image', 'write', at('y.img'), device, '--yes')
      expect([busy.code, busy.stderr]).toEqual([6, expect.stringMatching(/mounted at .*; unmount it first \[BUSY\]/)])
      tool('umount', at('mnt'))
    } finally {
      tool('losetup', '--detach', device)
    }
    expect(flotilla('image', 'write', at('y.img'), at('card'), '--yes').stderr).toMatch(/\[NOT_FOUND\]/)
    expect(existsSync(at('card'))).toBe(true)
  })
})
