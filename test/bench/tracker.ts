import { createServer } from 'node:http'

/** A BitTorrent tracker of one swarm, for the peers of the bench: hands out everybody (BEP 3, compact of BEP 23). */
const peers = new Map<string, Buffer>()
createServer((request, response) => {
  const url = new URL(request.url ?? '/', 'http://tracker')
  const address = request.socket.remoteAddress?.replace('::ffff:', '') ?? ''
  const port = Number(url.searchParams.get('port') ?? 0)
  peers.set(`${address}:${port}`, Buffer.from([...address.split('.').map(Number), port >> 8, port & 255]))
  const list = Buffer.concat([...peers.values()])
  response.end(Buffer.concat([Buffer.from(`d8:intervali2e5:peers${list.length}:`), list, Buffer.from('e')]))
}).listen(Number(process.argv[2] ?? 6969))
