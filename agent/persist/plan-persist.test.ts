import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { choosePersist, readPersistDevice } from './find-persist.ts'
import { describeStep, type PersistContent, planMount, planSwap, planTree, planUse } from './plan-persist.ts'

const MIB = 2 ** 20
const FOUND = {
  device: '/dev/mmcblk0p2',
  disk: '/dev/mmcblk0',
  number: 2,
  endBytes: 1_000 * MIB,
  diskBytes: 8_000 * MIB,
  isLast: true,
} as const
const CONTENT: PersistContent = {
  hostname: '',
  fleetName: '',
  hostKeys: ['ssh_host_ed25519_key', 'ssh_host_ed25519_key.pub', 'ssh_host_rsa_key', 'ssh_host_rsa_key.pub'],
  authorizedKeys: [],
  connections: [],
}
const kinds = (change: object) => planMount({ ...FOUND, ...change }).map((step) => step.do)
const words = (change: object) => planUse({ ...CONTENT, ...change }).map(describeStep)

describe('the persist partition', () => {
  it('is checked before it is grown, and grown before it is mounted', () => {
    expect(kinds({})).toEqual(['check', 'grow-partition', 'mount'])
  })

  it.each([
    ['something lies behind it', { isLast: false }],
    ['it fills the medium', { endBytes: 8_000 * MIB - MIB }],
    ['the medium is smaller than its table says', { diskBytes: 500 * MIB }],
  ])('stays as it is when %s', (_why, change) => {
    expect(kinds(change)).not.toContain('grow-partition')
  })

  it('keeps secrets for root alone', () => {
    const modes = new Map(
      planTree(FOUND).flatMap((step) => (step.do === 'make-directory' ? [[step.path, step.mode]] : [])),
    )
    for (const path of ['flotilla', 'skiff/keys', 'skiff/ssh', 'skiff/connections'])
      expect(modes.get(`/mnt/persist/${path}`)).toBe(0o700)
    const keys = planUse(CONTENT).flatMap((step) => (step.do === 'copy' ? [[step.to, step.mode] as const] : []))
    expect(keys).toEqual([
      ['/etc/ssh/ssh_host_ed25519_key', 0o600],
      ['/etc/ssh/ssh_host_ed25519_key.pub', 0o644],
      ['/etc/ssh/ssh_host_rsa_key', 0o600],
      ['/etc/ssh/ssh_host_rsa_key.pub', 0o644],
    ])
  })

  it('makes the host keys that are missing before it copies them', () => {
    const steps = words({ hostKeys: ['ssh_host_rsa_key', 'ssh_host_rsa_key.pub'] })
    const made = steps.findIndex((step) => step.startsWith('make the SSH host key'))
    expect(steps.findIndex((step) => step.includes('ssh_host_ed25519_key to /etc/ssh'))).toBeGreaterThan(made)
    expect(steps.filter((step) => step.startsWith('make the SSH host key'))).toHaveLength(1)
  })

  it('names the device as its owner chose, else as the fleet knows it', () => {
    expect(words({ fleetName: 'robot-3' })).toContain('set the host name to robot-3')
    expect(words({ fleetName: 'robot-3', hostname: 'mine' })).toContain('set the host name to mine')
    expect(words({}).join()).not.toContain('host name')
  })

  it('makes swap once, anew when another size is asked for, and never fills the partition with it', () => {
    const swap = (wantedMiB: number, presentMiB: number, freeMiB = 1_000) =>
      planSwap({ wantedBytes: wantedMiB * MIB, presentBytes: presentMiB * MIB, freeBytes: freeMiB * MIB }).map(
        describeStep,
      )
    const use = 'use the swap at /mnt/persist/skiff/swap'
    expect(swap(16, 0)).toEqual(['make 16 MiB of swap at /mnt/persist/skiff/swap', use])
    expect(swap(16, 16, 0)).toEqual([use])
    expect(swap(16, 32)[0]).toMatch(/^make 16 MiB/)
    expect(swap(0, 16)).toEqual([])
    expect(() => swap(950, 0)).toThrow(/make 950 MiB of swap: 1000 MiB are free, and 64 must stay so/)
  })
})

describe('the partition that is meant', () => {
  const on = (device: string, disk: string) => ({ ...FOUND, device, disk })
  const [card, stick] = [on('/dev/mmcblk0p2', '/dev/mmcblk0'), on('/dev/sda2', '/dev/sda')]

  it('is the one on the disk that the device boots from, whatever is plugged in besides', () => {
    expect(choosePersist([stick, card], '/dev/mmcblk0')).toBe(card)
    expect(choosePersist([stick], '/dev/mmcblk0')).toBe(stick) // boots from a card, keeps its data on a disk
    expect(() => choosePersist([stick, card], undefined)).toThrow(
      /\/dev\/sda2 and \/dev\/mmcblk0p2 have the same label/,
    )
  })

  it('is read from an eMMC too, which has children that are no partitions', async () => {
    const sys = mkdtempSync(join(tmpdir(), 'flotilla-sys-'))
    const disk = join(sys, 'devices/mmcblk0')
    for (const [name, start, size] of [
      ['mmcblk0p1', 2_048, 1_000],
      ['mmcblk0p2', 4_096, 2_000],
    ] as const) {
      mkdirSync(join(disk, name), { recursive: true })
      for (const [file, value] of Object.entries({ start, size, partition: name.slice(-1) }))
        writeFileSync(join(disk, name, file), `${value}\n`)
    }
    mkdirSync(join(disk, 'mmcblk0boot0'))
    writeFileSync(join(disk, 'mmcblk0boot0/size'), '8192\n')
    writeFileSync(join(disk, 'size'), '100000\n')
    mkdirSync(join(sys, 'class/block'), { recursive: true })
    symlinkSync('../../devices/mmcblk0/mmcblk0p2', join(sys, 'class/block/mmcblk0p2'))
    expect(await readPersistDevice('/dev/mmcblk0p2', sys)).toEqual({
      device: '/dev/mmcblk0p2',
      disk: '/dev/mmcblk0',
      number: 2,
      endBytes: 6_096 * 512,
      diskBytes: 100_000 * 512,
      isLast: true,
    })
    rmSync(sys, { recursive: true })
  })
})
