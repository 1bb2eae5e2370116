/** A chunk that could be asked of a peer. */
export type Candidate = { readonly rarity: number; readonly askedOf: number; readonly lengthBytes: number }

export type Choice = {
  readonly size: number
  /** Chunks not here yet, including those that are asked for. */
  readonly missing: number
  readonly roomBytes: number
  readonly candidate: (chunk: number) => Candidate | undefined
  readonly random: () => number
}

/** From here on a chunk may be asked of a second peer: the tail of a transfer must not wait for one slow link. */
const ENDGAME_CHUNKS = 20

/**
 * Which chunks to ask of one peer: those that fewest peers hold, ties by chance, as many as fit into `roomBytes`
 * (always at least one). A chunk that is already asked of somebody is left alone until the endgame, and never asked
 * of more than two. Pure but for `random`.
 * @see facts/distribution.md 2.4 and 3.5: rarest first reaches 1.01–1.10 of the bound, sequential order 2.5–5 times
 */
export function chooseChunks(choice: Choice): readonly number[] {
  if (choice.roomBytes <= 0) return []
  const fresh: { chunk: number; key: number; lengthBytes: number }[] = []
  const second: typeof fresh = []
  // Starting at a random place and stopping once enough of the rarest are seen keeps a pass cheap on long indexes.
  const start = Math.floor(choice.random() * choice.size)
  for (let n = 0; n < choice.size; n += 1) {
    const chunk = (start + n) % choice.size
    const found = choice.candidate(chunk)
    if (found === undefined || found.askedOf > 1) continue
    const entry = { chunk, key: found.rarity + choice.random() * 0.9, lengthBytes: found.lengthBytes }
    if (found.askedOf === 0) fresh.push(entry)
    else if (choice.missing <= ENDGAME_CHUNKS) second.push(entry)
  }
  const pool = fresh.length > 0 ? fresh : second
  pool.sort((a, b) => a.key - b.key)
  const chosen: number[] = []
  let bytes = 0
  for (const entry of pool) {
    if (chosen.length > 0 && bytes + entry.lengthBytes > choice.roomBytes) break
    chosen.push(entry.chunk)
    bytes += entry.lengthBytes
  }
  return chosen
}
