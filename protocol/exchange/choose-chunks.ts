export type Choice = {
  /** Chunks that could be asked of the peer. */
  readonly candidates: readonly number[]
  /** How many peers hold each chunk, by number. */
  readonly availability: Uint16Array
  /** Lengths in bytes, by number. */
  readonly lengths: Uint32Array
  readonly roomBytes: number
  readonly random: () => number
}

/** Most chunks chosen at once. */
const MOST = 64

/**
 * Which of the candidates to ask of one peer: those that fewest peers hold, ties by chance, as many as fit into
 * `roomBytes` (always at least one). Pure but for `random`.
 * @see facts/distribution.md 2.4 and 3.5: rarest first reaches 1.01–1.10 of the bound, sequential order 2.5–5 times
 */
export function chooseChunks(choice: Choice): readonly number[] {
  const { availability, lengths, random } = choice
  const ranked: { readonly chunk: number; readonly key: number }[] = []
  for (const chunk of choice.candidates) insert(ranked, { chunk, key: (availability[chunk] ?? 0) + random() * 0.9 })
  const chosen: number[] = []
  let bytes = 0
  for (const { chunk } of ranked) {
    const lengthBytes = lengths[chunk] ?? 0
    if (chosen.length > 0 && bytes + lengthBytes > choice.roomBytes) break
    chosen.push(chunk)
    bytes += lengthBytes
  }
  return chosen
}

/** Keeps the `MOST` smallest keys in order. */
function insert<T extends { readonly key: number }>(ranked: T[], entry: T): void {
  const last = ranked.at(-1)
  if (ranked.length >= MOST && last !== undefined && entry.key >= last.key) return
  let at = ranked.length
  while (at > 0 && (ranked[at - 1]?.key ?? 0) > entry.key) at -= 1
  ranked.splice(at, 0, entry)
  if (ranked.length > MOST) ranked.pop()
}
