import { FlotillaError } from '../../../protocol/errors.ts'

/**
 * What the agent needs of any boot family (facts/ota-systems.md part C). Slots are named by `shortId`.
 * Every change takes effect by one durable write: when the promise resolves it survives a power cut, when the power fails
 * before that, either the old or the new state holds.
 */
export type BootControl = {
  /** The slot that really booted, from what the kernel was given; never from a record of ours. */
  readonly current: () => string
  /** The slot that boots when nothing is on trial. */
  readonly good: () => Promise<string>
  /** Makes sure that a slot cannot be started, before its first byte is written. @throws FlotillaError BUSY for the good slot */
  readonly invalidate: (slot: string) => Promise<void>
  /** Lets a slot be tried `tries` times. @throws FlotillaError BOOT_COUNTER_STUCK when the loader was not seen to count */
  readonly arm: (slot: string, tries: number) => Promise<void>
  /** Makes a slot the one that boots from now on. */
  readonly markGood: (slot: string) => Promise<void>
  /** Takes a slot off trial; the good slot boots next. */
  readonly markBad: (slot: string) => Promise<void>
  /** Tries that a slot on trial has left; undefined when it is not on trial. */
  readonly remaining: (slot: string) => Promise<number | undefined>
  /** Evidence that the loader can write its counter. */
  readonly counterMoves: () => Promise<boolean>
  /**
   * Asked before the first byte of a release is written, and again when it is armed.
   * @throws FlotillaError BOOT_COUNTER_STUCK when falling back cannot be relied on, with why
   */
  readonly requireCounting: () => Promise<void>
  /** Whether the loader itself could not load the slot that is or was on trial; false where it cannot tell. */
  readonly loadFailed: () => Promise<boolean>
  /** Whether the agent has to ask for each try: the loader knows only one. */
  readonly oneShot: boolean
  /**
   * Takes a try of the slot on trial in the loader's place, for a restart that passes the loader by; where it is missing only the
   * loader can. @returns the slot, undefined when there is no try to take
   */
  readonly takeTry?: () => Promise<string | undefined>
  /** Called when the agent starts and nothing is armed or on trial: asks for evidence that was lost. */
  readonly settle: () => Promise<void>
  /** Called right before a reboot. @returns what the reboot system call must be told, undefined for nothing */
  readonly prepareReboot: () => Promise<string | undefined>
}

/** @throws FlotillaError BUSY for the slot that boots, which nobody may write to */
export function requireNotGood(good: string | undefined, slot: string): void {
  if (good === slot) throw new FlotillaError('BUSY', `invalidate slot ${slot}: it is the one that boots`)
}
