/** A chunk that could be asked of a peer. */
export type Candidate = { readonly rarity: number; readonly askedOf: number; readonly lengthBytes: number }

export type Choice = {
  /** Chunks that are not here, in any order. */
  readonly missing: readonly number[]
  readonly roomBytes: number
  readonly candidate: (chunk: number) => Candidate | undefined
  readonly random: () => number
}

/** From here on a chunk may be asked of a second peer: the tail of a transfer must not wait for one slow link. */
const ENDGAME_CHUNKS = 20
/** Candidates looked at in one choice: the rarest of so many is nearly as good as the rarest of all, at a fraction of the cost. */
const SAMPLE = 256
/** Most chunks chosen at once. */
const MOST = 64

type Ranked = { readonly chunk: number; readonly key: number; readonly lengthBytes: number }

/**
 * Which chunks to ask of one peer: those that fewest peers hold, ties by chance, as many as fit into `roomBytes`
 * (always at least one). A chunk that is already asked of somebody is left alone until the endgame, and never asked
 * of more than two. Pure but for `random`.
 * @see facts/distribution.md 2.4 and 3.5: rarest first reaches 1.01–1.10 of the bound, sequential order 2.5–5 times
 */
export function chooseChunks(choice: Choice): readonly number[] {
  const { missing, random } = choice
  if (choice.roomBytes <= 0) return []
  const fresh: Ranked[] = []
  const second: Ranked[] = []
  const endgame = missing.length <= ENDGAME_CHUNKS
  const start = Math.floor(random() * missing.length)
  for (let n = 0, seen = 0; n < missing.length && seen < SAMPLE; n += 1) {
    const chunk = missing[(start + n) % missing.length] ?? 0
    const found = choice.candidate(chunk)
    if (found === undefined || found.askedOf > 1 || (found.askedOf === 1 && !endgame)) continue
    seen += 1
    insert(found.askedOf === 0 ? fresh : second, {
      chunk,
      key: found.rarity + random() * 0.9,
      lengthBytes: found.lengthBytes,
    })
  }
  const chosen: number[] = []
  let bytes = 0
  for (const entry of fresh.length > 0 ? fresh : second) {
    if (chosen.length > 0 && bytes + entry.lengthBytes > choice.roomBytes) break
    chosen.push(entry.chunk)
    bytes += entry.lengthBytes
  }
  return chosen
}

/** Keeps the `MOST` smallest keys in order. */
function insert(ranked: Ranked[], entry: Ranked): void {
  const last = ranked.at(-1)
  if (ranked.length >= MOST && last !== undefined && entry.key >= last.key) return
  let at = ranked.length
  while (at > 0 && (ranked[at - 1]?.key ?? 0) > entry.key) at -= 1
  ranked.splice(at, 0, entry)
  if (ranked.length > MOST) ranked.pop()
}
