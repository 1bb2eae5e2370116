import type { gossipsub } from '@libp2p/gossipsub'
import type { Connection, PeerId, StreamHandler, Topology } from '@libp2p/interface'

/** The part of libp2p through which a service handles protocols and hears of peers. */
export type Registrar = Parameters<ReturnType<typeof gossipsub>>[0]['registrar']

/** Says who is a member and tells when somebody becomes one. */
export type MemberGate = {
  readonly isMember: (peer: string) => boolean
  readonly waitForMember: (peer: string) => Promise<boolean>
  readonly onMember: (listener: (peer: PeerId, connection: Connection) => void) => void
}

/**
 * A registrar that shows a libp2p service only members: streams of others are reset before the service sees them,
 * and its topologies hear of a peer only after both sides have shown a fleet certificate. The connection gater
 * cannot do this, because it cannot read streams (facts/trust.md 4.8).
 */
function gateRegistrar(registrar: Registrar, gate: MemberGate): Registrar {
  return new Proxy(registrar, {
    get(target, property) {
      if (property === 'handle') {
        return (protocol: string, handler: StreamHandler, options?: Parameters<Registrar['handle']>[2]) =>
          target.handle(protocol, gateHandler(handler, gate), options)
      }
      if (property === 'register') {
        return (protocol: string, topology: Topology) => registerGated(target, protocol, topology, gate)
      }
      const value: unknown = Reflect.get(target, property, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

/** The components of a libp2p node with a gated registrar in place of its own. They are a proxy, so they cannot be copied. */
export function withGatedRegistrar<Components extends { readonly registrar: Registrar }>(
  components: Components,
  gate: MemberGate,
): Components {
  const gated = gateRegistrar(components.registrar, gate)
  return new Proxy(components, {
    get: (target, property): unknown => (property === 'registrar' ? gated : Reflect.get(target, property, target)),
  })
}

/** A stream handler that runs only for members; a peer in the middle of its hello is waited for. */
export function gateHandler(handler: StreamHandler, gate: MemberGate): StreamHandler {
  return async (stream, connection) => {
    if (!(await gate.waitForMember(connection.remotePeer.toString()))) {
      stream.abort(new Error('NOT_A_MEMBER'))
      return
    }
    await handler(stream, connection)
  }
}

async function registerGated(
  registrar: Registrar,
  protocol: string,
  topology: Topology,
  gate: MemberGate,
): Promise<string> {
  const ready = new Map<string, [PeerId, Connection]>()
  const started = new Set<string>()
  const tryStart = (peer: string) => {
    const found = ready.get(peer)
    if (found === undefined || started.has(peer) || !gate.isMember(peer)) return
    started.add(peer)
    void topology.onConnect?.(...found)
  }
  gate.onMember((peer) => tryStart(peer.toString()))
  return registrar.register(protocol, {
    ...topology,
    onConnect: (peer, connection) => {
      ready.set(peer.toString(), [peer, connection])
      tryStart(peer.toString())
    },
    onDisconnect: (peer) => {
      ready.delete(peer.toString())
      if (started.delete(peer.toString())) void topology.onDisconnect?.(peer)
    },
  })
}
