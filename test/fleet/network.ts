import { execFileSync } from 'node:child_process'
import { createServer } from 'node:net'

/** Where simulated devices live: namespaces joined by bridges, or loopback without root. */
export type Network = {
  readonly kind: 'namespaces' | 'loopback'
  /** Adds a host. @returns how to start programs there and what it listens on */
  readonly addHost: (name: string, options?: HostOptions) => Promise<Host>
  /** Runs a command line in the namespace of a host; for tools that look at the network. */
  readonly wrapFor: (name: string, command: readonly string[]) => readonly string[]
  /** What can be done to hosts while they run. */
  readonly radio: Radio
  readonly close: () => void
}

export type HostOptions = {
  /** Gives it a first interface that leads nowhere and has the default route; the shared one is the second. */
  readonly decoy?: boolean
  /** Of its link, instead of the network's. */
  readonly rateMbit?: number
}

/** Changes to a network of namespaces; on loopback each of them throws. */
export type Radio = {
  /** Takes a host off the network and back. */
  readonly setLink: (name: string, up: boolean) => void
  /** Moves a host to another bridge: islands do not hear each other. All start on island 0. */
  readonly setIsland: (name: string, island: number) => void
  /** Stations of an access point that keeps them apart: they reach only hosts that are not isolated. */
  readonly isolate: (name: string) => void
  /** Gives the host another address instead of the one it has. */
  readonly setAddress: (name: string, address: string) => void
  /** Drops everything that is sent to a group, but for neighbour discovery. */
  readonly dropMulticast: () => void
  /** Drops so many of a hundred frames, at random. */
  readonly loseFrames: (percent: number) => void
  /** A second interface of a host on another island, from which it reaches one host there. @returns its address there */
  readonly bridgeTo: (name: string, island: number, target: string) => string
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

export type NamespaceOptions = {
  /** The only kind of address the hosts have. */
  readonly family?: 4 | 6
  /** All frames of all hosts share the rate, as on one radio channel; else each link has it in both directions. */
  readonly shared?: boolean
  /** How long a packet may wait at a link that is full. Above the usual 50 ms, loss and not delay is what slows senders down. */
  readonly queueMs?: number
}

/**
 * Hosts in namespaces of their own, joined by a bridge in one more (so that rules of the machine do not touch it).
 * There is no route besides the link itself and no way out.
 * @param rateMbit - of each link, or of the shared medium; 0 leaves it unshaped
 */
export function namespaceNetwork(
  rateMbit: number,
  { family = 4, shared = false, queueMs = 50 }: NamespaceOptions = {},
): Network {
  networks += 1
  const prefix = `fl${(process.pid % 100_000).toString(36)}${networks}`
  const bridges = `${prefix}s`
  const hosts = new Map<string, { readonly number: number; readonly link: string; address: string }>()
  const run = (program: string, ...args: string[]) => execFileSync(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const ip = (...args: string[]) => run('ip', ...args)
  const inside = (namespace: string, ...command: string[]) => ip('netns', 'exec', namespace, ...command)
  const shape = (namespace: string, device: string, mbit: number) => {
    const rate = ['root', 'tbf', 'rate', `${mbit}mbit`, 'burst', '64kb', 'latency', `${queueMs}ms`]
    if (mbit !== 0) inside(namespace, 'tc', 'qdisc', 'replace', 'dev', device, ...rate)
  }
  const islands = new Set<number>()
  const bridgeOf = (island: number) => {
    const name = `br${island}`
    if (islands.has(island)) return name
    islands.add(island)
    const options = ['type', 'bridge', 'stp_state', '0', 'forward_delay', '0', 'mcast_snooping', '0']
    ip('-n', bridges, 'link', 'add', name, ...options)
    ip('-n', bridges, 'link', 'set', name, 'up')
    return name
  }
  const hostOf = (name: string) => {
    const host = hosts.get(name)
    if (host === undefined) throw new Error(`no host ${name}`)
    return { ...host, namespace: `${prefix}h${host.number}`, port: `${prefix}p${host.number}` }
  }
  const subnet = (address: string) => (family === 4 ? `${address}/24` : `${address}/64`)
  const addLink = (port: string, bridge: string, namespace: string, link: string, address: string, mbit = rateMbit) => {
    ip('-n', bridges, 'link', 'add', port, 'type', 'veth', 'peer', 'name', link, 'netns', namespace)
    ip('-n', bridges, 'link', 'set', port, 'master', bridge, 'up')
    ip('-n', namespace, 'addr', 'add', address, 'dev', link, ...(family === 6 ? ['nodad'] : []))
    ip('-n', namespace, 'link', 'set', link, 'up')
    if (!shared) {
      shape(namespace, link, mbit)
      shape(bridges, port, mbit)
      return
    }
    // Every frame that enters the bridge crosses the one medium.
    inside(bridges, 'tc', 'qdisc', 'add', 'dev', port, 'ingress')
    const redirect = ['action', 'mirred', 'egress', 'redirect', 'dev', 'air']
    inside(bridges, 'tc', 'filter', 'add', 'dev', port, 'ingress', 'u32', 'match', 'u32', '0', '0', ...redirect)
  }
  ip('netns', 'add', bridges)
  ip('-n', bridges, 'link', 'set', 'lo', 'up')
  if (shared) {
    ip('-n', bridges, 'link', 'add', 'air', 'type', 'ifb')
    ip('-n', bridges, 'link', 'set', 'air', 'up')
    shape(bridges, 'air', rateMbit)
  }
  const nft = (rules: string) =>
    inside(bridges, 'nft', `table bridge radio { chain pass { type filter hook forward priority 0; ${rules} }; }`)
  return {
    kind: 'namespaces',
    addHost: (name, { decoy = false, rateMbit: mbit = rateMbit } = {}) => {
      const number = hosts.size + 1
      const address = family === 4 ? `10.77.0.${number}` : `fd77::${number}`
      const link = decoy ? 'eth1' : 'eth0'
      hosts.set(name, { number, link, address })
      const { namespace, port } = hostOf(name)
      ip('netns', 'add', namespace)
      ip('-n', namespace, 'link', 'set', 'lo', 'up')
      // Such as fills every queue there is; a machine's own default may be kinder.
      if (queueMs > 50) inside(namespace, 'sysctl', '-qw', 'net.ipv4.tcp_congestion_control=reno')
      if (decoy) {
        addLink(`${port}d`, bridgeOf(1_000 + number), namespace, 'eth0', `10.88.0.${number}/24`)
        ip('-n', namespace, 'route', 'add', 'default', 'via', '10.88.0.254', 'dev', 'eth0')
      }
      addLink(port, bridgeOf(0), namespace, link, subnet(address), mbit)
      return Promise.resolve({
        address,
        port: 4848,
        listen: [],
        wrap: (command) => ['ip', 'netns', 'exec', namespace, ...command],
      })
    },
    wrapFor: (name, command) => ['ip', 'netns', 'exec', hostOf(name).namespace, ...command],
    radio: {
      setLink: (name, up) => {
        const { port } = hostOf(name)
        ip('-n', bridges, 'link', 'set', port, ...(up ? ['master', 'br0'] : ['nomaster']))
      },
      setIsland: (name, island) => {
        ip('-n', bridges, 'link', 'set', hostOf(name).port, 'master', bridgeOf(island))
      },
      isolate: (name) => {
        inside(bridges, 'bridge', 'link', 'set', 'dev', hostOf(name).port, 'isolated', 'on')
      },
      setAddress: (name, address) => {
        const { namespace, link, address: before } = hostOf(name)
        ip('-n', namespace, 'addr', 'del', subnet(before), 'dev', link)
        ip('-n', namespace, 'addr', 'add', subnet(address), 'dev', link)
        hosts.set(name, { ...hostOf(name), address })
      },
      dropMulticast: () => nft('ip daddr 224.0.0.0/4 drop; ip6 daddr ff00::/8 meta l4proto != icmpv6 drop;'),
      loseFrames: (percent) => nft(`numgen random mod 100 < ${percent} drop;`),
      bridgeTo: (name, island, target) => {
        const { namespace, port, number } = hostOf(name)
        const address = `10.77.0.${100 + number}`
        addLink(`${port}b`, bridgeOf(island), namespace, 'eth9', `${address}/32`)
        const route = [`${hostOf(target).address}/32`, 'dev', 'eth9', 'src', address]
        ip('-n', namespace, 'route', 'add', ...route)
        return address
      },
    },
    close: () => {
      for (const { number } of hosts.values()) ip('netns', 'del', `${prefix}h${number}`)
      ip('netns', 'del', bridges)
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
    radio: new Proxy({} as Radio, {
      get: () => () => {
        throw new Error('loopback is not a radio')
      },
    }),
    close: () => {},
  }
}

export function freePort(): Promise<number> {
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
