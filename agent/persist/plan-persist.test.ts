import { describe, expect, it } from 'vitest'
import { describeStep, type PersistContent, planMount, planUse } from './plan-persist.ts'

const MIB = 2 ** 20
const FOUND = {
  device: '/dev/mmcblk0p2',
  disk: '/dev/mmcblk0',
  number: 2,
  endBytes: 1_000 * MIB,
  diskBytes: 8_000 * MIB,
  isLast: true,
  table: 'dos',
} as const
const CONTENT: PersistContent = {
  hostname: '',
  fleetName: '',
  hostKeys: ['ssh_host_ed25519_key', 'ssh_host_ed25519_key.pub', 'ssh_host_rsa_key', 'ssh_host_rsa_key.pub'],
  authorizedKeys: [],
  connections: [],
  swapMiB: 0,
  swapBytes: 0,
}
const kinds = (change: object) => planMount({ ...FOUND, ...change }).map((step) => step.do)
const words = (change: object) => planUse({ ...CONTENT, ...change }).map(describeStep)

describe('the persist partition', () => {
  it('is checked before it is grown, and grown before it is mounted', () => {
    expect(kinds({}).slice(0, 4)).toEqual(['check', 'grow-partition', 'mount', 'grow-file-system'])
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
      planMount(FOUND).flatMap((step) => (step.do === 'make-directory' ? [[step.path, step.mode]] : [])),
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

  it('makes swap once, and anew when another size is asked for', () => {
    expect(words({ swapMiB: 16 })).toContain('make 16 MiB of swap at /mnt/persist/skiff/swap')
    expect(words({ swapMiB: 16, swapBytes: 16 * MIB })).not.toContain('make 16 MiB of swap at /mnt/persist/skiff/swap')
    expect(words({ swapMiB: 16, swapBytes: 16 * MIB })).toContain('use the swap at /mnt/persist/skiff/swap')
    expect(words({ swapBytes: 16 * MIB }).join()).not.toContain('swap')
  })
})
