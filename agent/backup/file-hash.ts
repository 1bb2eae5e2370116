import { createHash } from 'node:crypto'
import { open } from 'node:fs/promises'

const PIECE_BYTES = 1_048_576

export function fileHash(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/**
 * Hashes a file piece by piece.
 * @returns undefined when there is no such file; throws what reading throws
 */
export async function hashFile(
  path: string,
): Promise<{ readonly sha256: string; readonly lengthBytes: number } | undefined> {
  const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
  if (file === undefined) return undefined
  try {
    const hash = createHash('sha256')
    const buffer = Buffer.allocUnsafe(PIECE_BYTES)
    let lengthBytes = 0
    for (;;) {
      const { bytesRead } = await file.read(buffer, 0, PIECE_BYTES, lengthBytes)
      if (bytesRead === 0) return { sha256: hash.digest('hex'), lengthBytes }
      hash.update(buffer.subarray(0, bytesRead))
      lengthBytes += bytesRead
    }
  } finally {
    await file.close()
  }
}
