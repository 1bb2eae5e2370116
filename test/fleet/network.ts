import { execFileSync } from 'node:child_process'
import { createServer } from 'node:net'

/** Where simulated devices live: namespaces joined by a bridge, or loopback without root. */
export type Network = {
  readonly kind: 'namespaces' | 'loopback'
  /** Adds a host. @returns how to start programs there and what it listens on */
  readonly addHost: (name: string) => Promise<Host>
  /** Runs a command line in the namespace of a host; for tools that look at the network. */
  readonly wrapFor: (name: string, command: readonly string[]) => readonly string[]
  /** Takes a host off the network and back. Only with namespaces. */
  readonly setLink: (name: string, up: boolean) => void
  readonly close: () => void
}
export type Host = {
  readonly address: string
  readonly port: number
  readonly listen: readonly string[]
  /** Wraps a command line so that it runs on the host. */
  readonly wrap: (command: readonly string[]) => readonly string[]
}

/** True when namespaces can be made here. */
export function canUseNamespaces(): boolean {
  if (process.getuid?.() !== 0) return false
  try {
    const probe = `flotilla-probe-${process.pid}`
    execFileSync('ip', ['netns', 'add', probe], { stdio: 'ignore' })
    execFileSync('ip', ['netns', 'del', probe], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

let networks = 0

/**
 * Hosts in namespaces of their own, joined by a bridge in one more (so that rules of the machine do not touch it),
 * each link shaped in both directions. There is no route besides the link itself and no way out.
 * @param rateMbit - of each link; 0 leaves it unshaped
 * @param family - the only kind of address the hosts have
 */
export function namespaceNetwork(rateMbit: number, family: 4 | 6 = 4): Network {
  networks += 1
  const prefix = `fl${(process.pid % 100_000).toString(36)}${networks}`
  const bridge = `${prefix}s`
  const hosts = new Map<string, number>()
  const ip = (...args: string[]) => execFileSync('ip', args, { stdio: ['ignore', 'pipe', 'pipe'] })
  ip('netns', 'add', bridge)
  ip('-n', bridge, 'link', 'set', 'lo', 'up')
  ip(
    '-n',
    bridge,
    'link',
    'add',
    'br0',
    'type',
    'bridge',
    'stp_state',
    '0',
    'forward_delay',
    '0',
    'mcast_snooping',
    '0',
  )
  ip('-n', bridge, 'link', 'set', 'br0', 'up')
  const shape = (namespace: string, device: string) => {
    if (rateMbit === 0) return
    execFileSync('ip', [
      'netns',
      'exec',
      namespace,
      'tc',
      'qdisc',
      'replace',
      'dev',
      device,
      'root',
      'tbf',
      'rate',
      `${rateMbit}mbit`,
      'burst',
      '64kb',
      'latency',
      '50ms',
    ])
  }
  const shapeBridgePort = (device: string) => shape(bridge, device)
  return {
    kind: 'namespaces',
    addHost: (name) => {
      const number = hosts.size + 1
      hosts.set(name, number)
      const namespace = `${prefix}h${number}`
      const port = `${prefix}p${number}`
      ip('netns', 'add', namespace)
      ip('-n', bridge, 'link', 'add', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace)
      ip('-n', bridge, 'link', 'set', port, 'master', 'br0', 'up')
      const address = family === 4 ? `10.77.0.${number}` : `fd77::${number}`
      ip(
        '-n',
        namespace,
        'addr',
        'add',
        family === 4 ? `${address}/24` : `${address}/64`,
        'dev',
        'eth0',
        ...(family === 6 ? ['nodad'] : []),
      )
      ip('-n', namespace, 'link', 'set', 'lo', 'up')
      ip('-n', namespace, 'link', 'set', 'eth0', 'up')
      shape(namespace, 'eth0')
      shapeBridgePort(port)
      return Promise.resolve({
        address,
        port: 4848,
        listen: [],
        wrap: (command) => ['ip', 'netns', 'exec', namespace, ...command],
      })
    },
    wrapFor: (name, command) => ['ip', 'netns', 'exec', `${prefix}h${hosts.get(name)}`, ...command],
    setLink: (name, up) => {
      const port = `${prefix}p${hosts.get(name)}`
      if (up) ip('-n', bridge, 'link', 'set', port, 'master', 'br0')
      else ip('-n', bridge, 'link', 'set', port, 'nomaster')
    },
    close: () => {
      for (const number of hosts.values()) ip('netns', 'del', `${prefix}h${number}`)
      ip('netns', 'del', bridge)
    },
  }
}

/** Hosts that share this machine's loopback, each with a port of its own. */
export function loopbackNetwork(): Network {
  return {
    kind: 'loopback',
    addHost: async () => ({
      address: '127.0.0.1',
      port: await freePort(),
      listen: ['127.0.0.1'],
      wrap: (command) => command,
    }),
    wrapFor: (_name, command) => command,
    setLink: () => {
      throw new Error('links cannot be cut on loopback')
    },
    close: () => {},
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() =>
        typeof address === 'object' && address !== null ? resolve(address.port) : reject(new Error('no port')),
      )
    })
  })
}
