/** Bounds of the exchange; the defaults follow facts/distribution.md 3.5. */
export type ExchangeLimits = {
  readonly startWindowBytes: number
  readonly minWindowBytes: number
  readonly maxWindowBytes: number
  readonly totalWindowBytes: number
  readonly badChunksBeforeBan: number
  readonly requestTimeoutMs: number
  /** Chunk numbers that one peer may have waiting here. */
  readonly queuePerPeer: number
  readonly asksPerPeer: number
}
export const DEFAULT_LIMITS: ExchangeLimits = {
  startWindowBytes: 256 * 1024,
  minWindowBytes: 128 * 1024,
  maxWindowBytes: 2 * 2 ** 20,
  totalWindowBytes: 16 * 2 ** 20,
  badChunksBeforeBan: 3,
  requestTimeoutMs: 8_000,
  queuePerPeer: 1024,
  asksPerPeer: 512,
}
