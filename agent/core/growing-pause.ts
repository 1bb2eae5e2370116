/** A pause that doubles from the first to the most. */
export type GrowingPause = { readonly firstMs: number; readonly mostMs: number }

/** How long to wait after so many failures, with a quarter either way: devices that failed together do not try together. */
export function growingPauseMs(failures: number, { firstMs, mostMs }: GrowingPause): number {
  return Math.min(mostMs, firstMs * 2 ** (failures - 1)) * (0.75 + Math.random() / 2)
}
