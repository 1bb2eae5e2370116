import { SLOTS_DIRECTORY } from './slot-layout.ts'
import { kernelArguments, type SlotBoot } from './slot-files.ts'

/**
 * Entries of systemd-boot, type 1 of the Boot Loader Specification. They exist from the start, are as long as one another and
 * are overwritten in place. An entry counts only while its `architecture` is the machine's: switching that by one
 * character is a write that a torn sector cannot spoil, and all other writes happen while the entry does not count.
 * @see protocol/spec/slots.md, "systemd-boot"
 */
export type LoaderEntry = {
  /** Higher goes first. */
  readonly version: number
  readonly enabled: boolean
  /** `canary`: counts like one on trial, but starts the good slot, to show that the loader can count. */
  readonly kind: 'good' | 'trial' | 'canary'
  readonly boot: SlotBoot
}

export const ENTRIES_DIRECTORY = 'loader/entries'
export const LOADER_ENTRY_BYTES = 2048
/** The entries of proven slots, of which the enabled one with the highest version boots. */
export const GOOD_ENTRIES = ['flotilla-a.conf', 'flotilla-b.conf'] as const
/** Tries of an entry of the good slot that only shows that the loader counts. */
export const CANARY_TRIES = 9
const ARCHITECTURE = 'architecture '
/** Where in an entry the one character stands that enables it. */
export const ENTRY_SWITCH_AT = ARCHITECTURE.length
/** systemd-boot's names of machines. */
export type EfiMachine = 'x64' | 'aa64'

/** The file of an entry. Pure. */
export function encodeLoaderEntry(entry: LoaderEntry, machine: EfiMachine): Uint8Array {
  const { slot, kernel, initramfs } = entry.boot
  const head = `${ARCHITECTURE}${entry.enabled ? machine : `-${machine.slice(1)}`}\n`
  const lines = [
    `title flotilla ${slot}${entry.kind === 'good' ? '' : ` (${entry.kind})`}`,
    `sort-key flotilla-${entry.kind === 'good' ? 1 : 0}`,
    `version ${String(entry.version).padStart(10, '0')}`,
    `linux /${SLOTS_DIRECTORY}/${slot}/${kernel}`,
    ...(initramfs === '' ? [] : [`initrd /${SLOTS_DIRECTORY}/${slot}/${initramfs}`]),
    `options ${kernelArguments(entry.boot, entry.kind === 'trial')}`,
    '#',
  ]
  const content = `${head}${lines.join('\n')}`.padEnd(LOADER_ENTRY_BYTES - 1, '#')
  return Buffer.from(`${content}\n`, 'latin1')
}

/** The character at `ENTRY_SWITCH_AT` of an entry that counts, or of one that does not. */
export function switchCharacter(enabled: boolean, machine: EfiMachine): Uint8Array {
  return Buffer.from(enabled ? machine.slice(0, 1) : '-', 'latin1')
}

/** What an entry says, undefined for anything that is not one of ours. */
export function parseLoaderEntry(
  bytes: Uint8Array | undefined,
): { readonly slot: string; readonly version: number; readonly enabled: boolean } | undefined {
  if (bytes?.length !== LOADER_ENTRY_BYTES) return undefined
  const text = Buffer.from(bytes).toString('latin1')
  const machine = /^architecture (x64|aa64|-64|-a64)\n/.exec(text)?.[1]
  const version = /^version (\d{10})$/m.exec(text)?.[1]
  const slot = /^options .*\bflotilla\.slot=([0-9a-f]{16})\b/m.exec(text)?.[1]
  if (machine === undefined || version === undefined || slot === undefined) return undefined
  return { slot, version: Number(version), enabled: !machine.startsWith('-') }
}

/** Of the entries of proven slots the one that boots. Pure. */
export function newestEntry<T extends { readonly version: number; readonly enabled: boolean }>(
  entries: readonly T[],
): T | undefined {
  return entries.filter(({ enabled }) => enabled).sort((a, b) => b.version - a.version)[0]
}

/** The name of the entry on trial, with the counters as systemd-boot itself writes them: without leading zeros. */
export function trialEntryName(left: number, done: number): string {
  return `flotilla-trial+${left}-${done}.conf`
}

/** The counters in a name of `trialEntryName`. */
export function parseTrialEntryName(name: string): { readonly left: number; readonly done: number } | undefined {
  const found = /^flotilla-trial\+(\d{1,2})-(\d{1,2})\.conf$/.exec(name)
  return found === null ? undefined : { left: Number(found[1]), done: Number(found[2]) }
}
