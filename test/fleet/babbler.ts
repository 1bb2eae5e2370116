import { createSocket } from 'node:dgram'
import { encodeAdvertisement } from '../../protocol/network/discovery/service-packet.ts'

/** Multicasts malformed discovery records of a fleet: `babbler.ts ADDRESS FLEET`. Prints how many. */
const [address = '', fleet = ''] = process.argv.slice(2)
const socket = createSocket({ type: 'udp4', reuseAddr: true })
let sent = 0
socket.bind(5353, '0.0.0.0', () => {
  socket.setMulticastInterface(address)
  const good = encodeAdvertisement(
    { id: '12D3KooWnot-a-peer', name: 'babbler', fleet, port: 4848, addresses: [address, '0.0.0.0', '256.1.1.1'] },
    120,
  )
  setInterval(() => {
    const packet = Buffer.from(good)
    // Whole but wrong, cut off, or with a byte changed, in turns.
    const kind = sent % 3
    const at = Math.floor(Math.random() * packet.length)
    if (kind === 2) packet[at] = Math.floor(Math.random() * 256)
    socket.send(kind === 1 ? packet.subarray(0, at) : packet, 5353, '224.0.0.251')
    sent += 1
    if (sent % 50 === 0) process.stdout.write(`sent ${sent}\n`)
  }, 10)
})
