import { MAX_CHUNK_BYTES } from './chunk-index.ts'
import { nextCut, RELEASE_CUT } from './cut-by-content.ts'
import { type ReadRange, squashfsBoundaries } from './squashfs-boundaries.ts'

/** A piece of an artifact: `offset … offset + bytes.length`. */
export type Cut = { readonly offset: number; readonly bytes: Uint8Array }

const READ_BYTES = 8 * 2 ** 20

/**
 * Cuts an artifact into chunks of at most 256 KiB: at block boundaries when it is a squashfs image, else by content.
 * The cut is a choice of the builder; a device only reads the index. Memory: one buffer of 8 MiB.
 */
export function* cutArtifact(read: ReadRange, artifactBytes: number): Generator<Cut> {
  const boundaries = squashfsBoundaries(read, artifactBytes) ?? []
  let start = 0
  for (const end of [...mergeSmall(boundaries), artifactBytes]) {
    if (end > start) yield* cutSpan(read, start, end)
    start = end
  }
}

/** Drops boundaries that would leave a piece under the minimum, except before a piece that is large by itself. */
function* mergeSmall(boundaries: readonly number[]): Generator<number> {
  let last = 0
  for (const [at, end] of boundaries.entries()) {
    const next = boundaries[at + 1]
    const nextIsLarge = next === undefined || next - end >= RELEASE_CUT.minBytes
    if (end - last >= RELEASE_CUT.minBytes || nextIsLarge) {
      yield end
      last = end
    }
  }
}

function* cutSpan(read: ReadRange, spanStart: number, spanEnd: number): Generator<Cut> {
  if (spanEnd - spanStart <= MAX_CHUNK_BYTES && spanEnd - spanStart < RELEASE_CUT.averageBytes * 2) {
    yield { offset: spanStart, bytes: read(spanStart, spanEnd - spanStart) }
    return
  }
  let start = spanStart
  while (start < spanEnd) {
    const window = read(start, Math.min(READ_BYTES, spanEnd - start))
    const last = start + window.length === spanEnd
    let at = 0
    // A chunk may only be cut while the window holds a whole maximum, or the span ends.
    while (at < window.length && (last || window.length - at >= RELEASE_CUT.maxBytes)) {
      const end = nextCut(window, at, window.length)
      yield { offset: start + at, bytes: window.subarray(at, end) }
      at = end
    }
    start += at
  }
}
