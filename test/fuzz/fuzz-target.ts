import { DECODERS } from './decoders.ts'
import { judgeRun } from './judge-run.ts'

const decoder = DECODERS[process.env['FUZZ_DECODER'] ?? '']

/** The entry that Jazzer.js calls: throws on a finding. */
export function fuzz(bytes: Uint8Array): void {
  const finding = decoder === undefined ? 'no such decoder' : judgeRun(decoder, bytes)
  if (finding !== undefined) throw new Error(finding)
}
