import { FlotillaError } from '../../protocol/errors.ts'
import type { Decoder } from './decoders.ts'

const MOST_MS = 1_000

/**
 * What is wrong with a decoder on these bytes, or undefined: it must return or throw a coded error, within a second of processor
 * time: the clock goes on while other programs run.
 */
export function judgeRun(decoder: Decoder, bytes: Uint8Array): string | undefined {
  const before = process.cpuUsage()
  try {
    decoder.run(bytes)
  } catch (error) {
    if (!(error instanceof FlotillaError))
      return error instanceof Error ? (error.stack ?? error.message) : String(error)
  }
  const { user, system } = process.cpuUsage(before)
  const tookMs = (user + system) / 1_000
  return tookMs > MOST_MS ? `took ${Math.round(tookMs)} ms for ${bytes.length} bytes` : undefined
}
