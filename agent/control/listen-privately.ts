import type { Server } from 'node:net'

/**
 * Listens on a Unix socket that has its mode from the first moment on: it is made under a mask, not changed afterwards.
 * @param mask - what others may not, such as 0o177 for the owner alone
 * @throws what listening fails with, such as EADDRINUSE
 */
export function listenPrivately(server: Server, path: string, mask: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    const before = process.umask(mask)
    server.listen(path, () => {
      process.umask(before)
      resolve()
    })
  })
}
