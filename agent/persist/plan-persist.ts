import { FlotillaError } from '../../protocol/errors.ts'

/** The partition that outlives releases, as the system shows it. Bytes. */
export type PersistDevice = {
  readonly device: string
  readonly disk: string
  /** Of the partition on the disk, from 1. */
  readonly number: number
  readonly endBytes: number
  readonly diskBytes: number
  readonly isLast: boolean
}

/** What is on it already, and what the image brings. Names are file names. */
export type PersistContent = {
  /** First line of `skiff/hostname`; empty when nobody chose one. */
  readonly hostname: string
  /** The device's name in the fleet, from its certificate; empty before it is enrolled. */
  readonly fleetName: string
  readonly hostKeys: readonly string[]
  readonly authorizedKeys: readonly string[]
  readonly connections: readonly string[]
}

/** The swap that is asked for by `/etc/flotilla/swap`, and what there is. Bytes. */
export type SwapWish = { readonly wantedBytes: number; readonly presentBytes: number; readonly freeBytes: number }

/** One thing to do. Each can be done again without harm, also after a power cut in its middle. */
export type PersistStep =
  | { readonly do: 'check'; readonly device: string }
  | { readonly do: 'grow-partition'; readonly disk: string; readonly number: number }
  | { readonly do: 'mount'; readonly device: string; readonly at: string }
  | { readonly do: 'grow-file-system'; readonly device: string }
  | { readonly do: 'make-directory'; readonly path: string; readonly mode: number }
  | { readonly do: 'make-host-key'; readonly path: string; readonly type: string }
  | { readonly do: 'copy'; readonly from: string; readonly to: string; readonly mode: number; readonly group?: string }
  /** Over what the image has; nothing is removed there. */
  | { readonly do: 'copy-tree'; readonly from: string; readonly to: string }
  | { readonly do: 'write'; readonly path: string; readonly text: string; readonly mode: number }
  | { readonly do: 'set-hostname'; readonly name: string }
  | { readonly do: 'bind'; readonly from: string; readonly to: string }
  | { readonly do: 'make-swap'; readonly path: string; readonly lengthBytes: number }
  | { readonly do: 'swap-on'; readonly path: string }

export const PERSIST = '/mnt/persist'
const SKIFF = `${PERSIST}/skiff`
const MIB = 2 ** 20
/** What swap must leave for everything else. */
const MIN_FREE_BYTES = 64 * MIB
/** Less is not worth a new table: partitions end at whole mebibytes, a GPT needs the end for its copy. */
const WORTH_GROWING_BYTES = 8 * MIB
/** The tree of the SkiffOS paper, III.B, and what is kept apart from it. Secrets are root's alone. */
const DIRECTORIES: readonly (readonly [path: string, mode: number])[] = [
  [`${PERSIST}/flotilla`, 0o700],
  [SKIFF, 0o755],
  ...['core', 'docker', 'containerd', 'etc', 'journal'].map((name) => [`${SKIFF}/${name}`, 0o755] as const),
  ...['connections', 'keys', 'ssh'].map((name) => [`${SKIFF}/${name}`, 0o700] as const),
]
/** Where programs of the image keep what must outlive it. */
const BINDS: readonly (readonly [from: string, to: string])[] = [
  [`${SKIFF}/journal`, '/var/log/journal'],
  [`${SKIFF}/docker`, '/var/lib/docker'],
  [`${SKIFF}/containerd`, '/var/lib/containerd'],
]
const HOST_KEY_TYPES = ['ed25519', 'rsa']

/** From a partition that was found to one that is mounted and as large as its medium. Pure. */
export function planMount(found: PersistDevice): readonly PersistStep[] {
  const { device, disk, number, endBytes, diskBytes, isLast } = found
  const grows = isLast && diskBytes - endBytes >= WORTH_GROWING_BYTES
  return [
    { do: 'check', device },
    ...(grows ? [{ do: 'grow-partition', disk, number } as const] : []),
    { do: 'mount', device, at: PERSIST },
  ]
}

/**
 * What is done to what is mounted: none of it keeps the data away when it fails. Pure.
 * @param found - undefined where it is no partition of this device's
 */
export function planTree(found: PersistDevice | undefined): readonly PersistStep[] {
  return [
    ...(found === undefined ? [] : [{ do: 'grow-file-system', device: found.device } as const]),
    ...DIRECTORIES.map(([path, mode]) => ({ do: 'make-directory', path, mode }) as const),
  ]
}

/** Keys that log root in: also without the partition, when the image has some. Pure. */
export function planLogin(authorizedKeys: readonly string[]): readonly PersistStep[] {
  if (authorizedKeys.length === 0) return []
  return [
    { do: 'make-directory', path: '/root/.ssh', mode: 0o700 },
    { do: 'write', path: '/root/.ssh/authorized_keys', text: `${authorizedKeys.join('\n')}\n`, mode: 0o600 },
  ]
}

/**
 * The swap file. It is made under another name: one of the right size is whole.
 * @returns nothing when none is wanted
 * @throws FlotillaError NOT_ENOUGH_SPACE when it would fill the partition
 */
export function planSwap({ wantedBytes, presentBytes, freeBytes }: SwapWish): readonly PersistStep[] {
  const path = `${SKIFF}/swap`
  if (wantedBytes === 0) return []
  if (presentBytes === wantedBytes) return [{ do: 'swap-on', path }]
  const room = freeBytes + presentBytes - wantedBytes
  if (room < MIN_FREE_BYTES)
    throw new FlotillaError(
      'NOT_ENOUGH_SPACE',
      `make ${wantedBytes / MIB} MiB of swap: ${Math.floor((freeBytes + presentBytes) / MIB)} MiB are free, and ${MIN_FREE_BYTES / MIB} must stay so`,
    )
  return [
    { do: 'make-swap', path, lengthBytes: wantedBytes },
    { do: 'swap-on', path },
  ]
}

/** What of it takes the place of what the image has. Pure. */
export function planUse(content: PersistContent): readonly PersistStep[] {
  const { hostname, fleetName, hostKeys, connections, authorizedKeys } = content
  const missing = HOST_KEY_TYPES.filter((type) => !hostKeys.includes(`ssh_host_${type}_key`))
  const name = hostname === '' ? fleetName : hostname
  return [
    { do: 'copy-tree', from: `${SKIFF}/etc`, to: '/etc' },
    ...missing.map((type) => ({ do: 'make-host-key', path: `${SKIFF}/ssh/ssh_host_${type}_key`, type }) as const),
    ...[...new Set([...hostKeys, ...missing.flatMap((type) => [`ssh_host_${type}_key`, `ssh_host_${type}_key.pub`])])]
      .sort()
      .map(
        (file) =>
          ({
            do: 'copy',
            from: `${SKIFF}/ssh/${file}`,
            to: `/etc/ssh/${file}`,
            mode: file.endsWith('.pub') ? 0o644 : 0o600,
          }) as const,
      ),
    ...planLogin(authorizedKeys),
    ...connections.map(
      (file) =>
        ({
          do: 'copy',
          from: `${SKIFF}/connections/${file}`,
          to: `/run/systemd/network/${file}`,
          // A .netdev may hold a WireGuard key.
          mode: 0o640,
          group: 'systemd-network',
        }) as const,
    ),
    ...(name === '' ? [] : [{ do: 'set-hostname', name } as const]),
    ...BINDS.map(([from, to]) => ({ do: 'bind', from, to }) as const),
  ]
}

/** A step as a person reads it. */
export function describeStep(step: PersistStep): string {
  switch (step.do) {
    case 'check':
      return `check the file system on ${step.device}`
    case 'grow-partition':
      return `grow partition ${step.number} of ${step.disk} to its end`
    case 'mount':
      return `mount ${step.device} at ${step.at}`
    case 'grow-file-system':
      return `grow the file system on ${step.device} to its partition`
    case 'make-directory':
      return `make ${step.path}`
    case 'make-host-key':
      return `make the SSH host key ${step.path}`
    case 'copy':
    case 'copy-tree':
      return `copy ${step.from} to ${step.to}`
    case 'write':
      return `write ${step.path}`
    case 'set-hostname':
      return `set the host name to ${step.name}`
    case 'bind':
      return `bind ${step.from} to ${step.to}`
    case 'make-swap':
      return `make ${step.lengthBytes / MIB} MiB of swap at ${step.path}`
    case 'swap-on':
      return `use the swap at ${step.path}`
  }
}
