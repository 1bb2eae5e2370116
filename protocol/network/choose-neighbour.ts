/** What is known of a neighbour when there are too many. */
export type Neighbour = {
  readonly id: string
  /** Of the same board, or of more use in another way. */
  readonly preferred: boolean
  /** Nothing is under way to or from it. */
  readonly idle: boolean
  /** The owner named its address. */
  readonly pinned: boolean
  readonly connectedMs: number
}

/** One that was only just found may be about to be asked. */
const SETTLED_MS = 60_000

/**
 * The neighbour that goes when there are too many, undefined when none may. Pure.
 * Any that is idle and not new; the preferred ones stay only as long as they are no more than `kept`: else a fleet of one board
 * would never mix, and a device that is the only one of its board would be sent away by everybody.
 */
export function chooseToDrop(neighbours: readonly Neighbour[], kept: number, random: () => number): string | undefined {
  const preferred = neighbours.filter((neighbour) => neighbour.preferred).length
  const idle = neighbours.filter(
    (neighbour) =>
      neighbour.idle &&
      !neighbour.pinned &&
      neighbour.connectedMs >= SETTLED_MS &&
      (!neighbour.preferred || preferred > kept),
  )
  return idle[Math.floor(random() * idle.length)]?.id
}
