import { createServer, type Socket, connect } from 'node:net'

/**
 * A path through bad radio, as a program: `bad-path.ts DELAY-MS CUT-BYTES LISTEN-HOST=TARGET-HOST…`. Forwards the ports 4848
 * and 4849. Bytes arrive late, by half of the delay more or less; a connection is reset after a random number of bytes
 * around CUT-BYTES (0: never); a new connection waits up to six delays, so that later ones overtake it.
 * Prints what it did, so that a test can assert that it happened.
 */
const [delayText = '0', cutText = '0', ...routes] = process.argv.slice(2)
const delayMs = Number(delayText)
const cutBytes = Number(cutText)
const PORTS = [4848, 4849]
const MAX_QUEUED = 2 * 2 ** 20
const done = { connections: 0, cuts: 0, bytes: 0 }
setInterval(() => process.stdout.write(`path ${JSON.stringify(done)}\n`), 200)

for (const route of routes) {
  const [listenHost = '', target = ''] = route.split('=')
  for (const port of PORTS) {
    createServer({ pauseOnConnect: true }, (near) => {
      near.on('error', () => {})
      setTimeout(() => join(near, connect(port, target)), Math.random() * 6 * delayMs)
    }).listen(port, listenHost)
  }
}

function join(near: Socket, far: Socket): void {
  done.connections += 1
  const limit = cutBytes === 0 ? Infinity : cutBytes * (0.5 + Math.random())
  let moved = 0
  const cut = () => {
    near.resetAndDestroy()
    far.resetAndDestroy()
  }
  for (const [from, to] of [
    [near, far],
    [far, near],
  ] as const) {
    const queue: { readonly atMs: number; readonly bytes: Buffer }[] = []
    let queued = 0
    const pump = () => {
      for (let next = queue[0]; next !== undefined && next.atMs <= performance.now(); next = queue[0]) {
        queue.shift()
        queued -= next.bytes.length
        if (!to.destroyed) to.write(next.bytes)
      }
      if (queued < MAX_QUEUED / 2) from.resume()
      if (queue[0] !== undefined) setTimeout(pump, Math.max(1, queue[0].atMs - performance.now()))
    }
    from.on('error', cut)
    from.on('close', () => setTimeout(() => to.destroySoon(), delayMs * 2))
    from.on('data', (bytes: Buffer) => {
      moved += bytes.length
      done.bytes += bytes.length
      if (moved > limit) {
        done.cuts += 1
        return cut()
      }
      // Late, in order: TCP itself does not reorder.
      const atMs = Math.max(queue.at(-1)?.atMs ?? 0, performance.now() + delayMs * (0.5 + Math.random()))
      queue.push({ atMs, bytes })
      queued += bytes.length
      if (queued > MAX_QUEUED) from.pause()
      if (queue.length === 1) setTimeout(pump, atMs - performance.now())
    })
  }
  near.resume()
}
