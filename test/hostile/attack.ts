import { setTimeout as pause } from 'node:timers/promises'
import type { Company } from './company.ts'

/** One way to be bad company. */
export type Attack = {
  readonly name: string
  /** What it does, in a line of the table. */
  readonly does: string
  /** The event and code with which a device refuses it; undefined where there is nothing to refuse, only to bear. */
  readonly refused: { readonly event: string; readonly code: string } | undefined
  /** Starts it and leaves it running. */
  readonly mount: (company: Company) => Promise<void>
}

/** How a device refuses most attacks: with an event that names the code. */
export const refusedWith = (code: string, event = 'peer-refused') => ({ event, code })

/** Again and again; what the other side cuts does not end it. */
export async function repeat(times: number, act: (at: number) => Promise<void>): Promise<void> {
  for (let at = 0; at < times; at += 1) {
    await act(at).catch(() => pause(5))
    await new Promise((resolve) => setImmediate(resolve)) // an act may never have waited
  }
}

/** A number of 32 bits as frames carry it. */
export function int32(value: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(value).buffer)
}
