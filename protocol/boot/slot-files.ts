import { FlotillaError } from '../errors.ts'
import type { Artifact, ReleaseDescription } from '../release/description.ts'
import { shape } from '../shape.ts'

/** How a board boots: the adapter that the agent uses on it, and what its loader is told. */
export const BOOT_FAMILIES = [
  'systemd-boot',
  'uboot',
  'raspberry-pi',
  'grub',
  'extlinux',
  'container',
  'directory',
] as const
export type BootFamily = (typeof BOOT_FAMILIES)[number]

/** The artifact with the kernel command line of a release: one line, what the board needs besides Flotilla's own words. */
export const COMMAND_LINE_ARTIFACT = 'cmdline'
/** A loader entry is one kilobyte. */
export const MAX_COMMAND_LINE_BYTES = 512
/** `trialBootSeconds` of an agent.yaml that says none. */
export const DEFAULT_TRIAL_BOOT_SECONDS = 300
/** What no loader script could take for something else. */
const PLAIN = /^[\w =.,:/+@%-]*$/

/** What a loader has to know of a slot, and what stands in its `loader.env`. */
export type SlotBoot = {
  readonly slot: string
  /** Empty where the root runs on a kernel that is there. */
  readonly kernel: string
  /** Empty where the root is started otherwise. */
  readonly initramfs: string
  /** Empty where the board's firmware brings it, or knows its name. */
  readonly deviceTree: string
  readonly commandLine: string
  /** How long a trial boot may take until the release is confirmed, seconds. */
  readonly trialSeconds: number
}

export type SlotFile = { readonly name: string; readonly bytes: Uint8Array }

/** Files that a slot has for its loader; no artifact may have such a name. */
export const LOADER_FILES = ['loader.env', 'loader.cfg', 'cmdline.txt'] as const

/** Families that start a kernel, and need to know of it. */
export function startsKernel(family: BootFamily): boolean {
  return family !== 'container' && family !== 'directory'
}

/** Families whose loader reads files in the slot: what to start, or how long a trial may take. */
export function readsSlotFiles(family: BootFamily): boolean {
  return family !== 'directory'
}

/**
 * What a loader starts of a release. Pure.
 * @param commandLine - content of the artifact `cmdline`, empty when there is none
 * @param trialBootSeconds - how long a trial boot may take before its checks begin
 * @throws FlotillaError NOT_FOR_THIS_DEVICE for a release that no loader could start
 */
export function describeSlotBoot(
  family: BootFamily,
  slot: string,
  { artifacts, health }: Pick<ReleaseDescription, 'artifacts' | 'health'>,
  commandLine: string,
  trialBootSeconds: number,
): SlotBoot {
  const named = (kind: Artifact['kind']) =>
    artifacts.filter((artifact) => artifact.kind === kind).map(({ name }) => name)
  const [kernel] = named('kernel')
  if (kernel === undefined && startsKernel(family))
    throw new FlotillaError('NOT_FOR_THIS_DEVICE', `boot release ${slot}: it has no kernel, and this device starts one`)
  const deviceTrees = named('dtb')
  return {
    slot,
    kernel: kernel ?? '',
    initramfs: named('initramfs')[0] ?? '',
    // Of several the loader takes the one that its own board names.
    deviceTree: deviceTrees.length === 1 ? (deviceTrees[0] ?? '') : '',
    commandLine: parseCommandLine(commandLine),
    trialSeconds: trialBootSeconds + health.deadlineSeconds,
  }
}

/** `trialBootSeconds` as an agent.yaml has it. @throws FlotillaError FORMAT */
export function parseTrialBootSeconds(value: unknown, path: string): number {
  return shape.integer(value, path, 10, 3_600)
}

/** @throws FlotillaError BAD_INPUT for what a loader could misread, or for more than one line */
export function parseCommandLine(text: string): string {
  const line = text.trim()
  if (Buffer.byteLength(line) > MAX_COMMAND_LINE_BYTES || !PLAIN.test(line))
    throw new FlotillaError(
      'BAD_INPUT',
      `kernel command line: one line of at most ${MAX_COMMAND_LINE_BYTES} letters, digits and = . , : / + @ % - _ is wanted, not ${JSON.stringify(line.slice(0, 80))}`,
    )
  return line
}

/** The files that a loader of this family reads in the slot; the same release gives the same bytes. Pure. */
export function slotFiles(family: BootFamily, boot: SlotBoot): readonly SlotFile[] {
  if (!readsSlotFiles(family)) return []
  const variables = [
    ['fl_kernel', boot.kernel],
    ['fl_initrd', boot.initramfs],
    ['fl_fdt', boot.deviceTree],
    ['fl_args', boot.commandLine],
    ['fl_wait', String(boot.trialSeconds)],
  ] as const
  const environment = text('loader.env', variables.map(([key, value]) => `${key}=${value}\n`).join(''))
  if (family === 'grub')
    return [environment, text('loader.cfg', variables.map(([key, value]) => `set ${key}="${value}"\n`).join(''))]
  // The firmware takes it as it is: whether the boot is a trial is in the device tree.
  if (family === 'raspberry-pi') return [environment, text('cmdline.txt', `${kernelArguments(boot, false)}\n`)]
  return [environment]
}

/** Parses what `slotFiles` wrote as `loader.env`. @returns undefined when a line is missing */
export function parseSlotBoot(slot: string, bytes: Uint8Array): SlotBoot | undefined {
  const lines = new Map(
    Buffer.from(bytes)
      .toString('latin1')
      .split('\n')
      .map((line) => [line.split('=', 1)[0] ?? '', line.slice(line.indexOf('=') + 1)]),
  )
  const [kernel, initramfs, deviceTree] = [lines.get('fl_kernel'), lines.get('fl_initrd'), lines.get('fl_fdt')]
  const [commandLine, wait] = [lines.get('fl_args'), lines.get('fl_wait')]
  if (kernel === undefined || initramfs === undefined || deviceTree === undefined) return undefined
  if (commandLine === undefined || wait === undefined || !/^\d{1,6}$/.test(wait)) return undefined
  return { slot, kernel, initramfs, deviceTree, commandLine, trialSeconds: Number(wait) }
}

/** The whole command line of a slot. Pure. */
export function kernelArguments({ slot, commandLine, trialSeconds }: SlotBoot, trial: boolean): string {
  return [commandLine, `flotilla.slot=${slot}`, trial ? `flotilla.trial=${trialSeconds}` : ''].filter(Boolean).join(' ')
}

function text(name: SlotFile['name'], content: string): SlotFile {
  return { name, bytes: Buffer.from(content, 'latin1') }
}
