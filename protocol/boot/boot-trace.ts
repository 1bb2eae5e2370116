import { SLOT_NAME } from './boot-record.ts'

/**
 * How far the last trial boot came: `flotilla-init` overwrites this file in place, while the boot partition is read-only, so
 * that a release that dies early still tells where. 512 bytes of text, filled up with spaces.
 */
export const TRACE_PATH = 'trace'
export const TRACE_BYTES = 512

export type BootTrace = {
  readonly slot: string
  /** `initramfs`: the kernel came up. `system`: the root was put together and its init started. */
  readonly stage: 'initramfs' | 'system'
  /** Why it could not go on; empty when it did. */
  readonly why: string
}

/** The file of a new device: nothing was traced yet. */
export function emptyTrace(): Uint8Array {
  return Buffer.from(`${'flotilla-trace 1\n'.padEnd(TRACE_BYTES - 1, ' ')}\n`, 'latin1')
}

/** Undefined when nothing was traced, or it is damaged. */
export function parseTrace(bytes: Uint8Array | undefined): BootTrace | undefined {
  if (bytes?.length !== TRACE_BYTES) return undefined
  const [head, slot, stage, why = ''] = Buffer.from(bytes).toString('latin1').split('\n')
  if (head !== 'flotilla-trace 1' || slot === undefined || !SLOT_NAME.test(slot)) return undefined
  if (stage !== 'initramfs' && stage !== 'system') return undefined
  return { slot, stage, why: why.replaceAll(/[^ -~]/g, '?').trim() }
}
