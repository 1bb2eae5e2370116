import { parseTrace, TRACE_BYTES, TRACE_PATH } from '../../protocol/boot/boot-trace.ts'
import type { Disk } from '../store/disk.ts'
import type { BootControl } from './bootloaders/boot-control.ts'
import type { UpdateState } from './update-machine.ts'

/**
 * How far the last trial boot of a slot came, in words, from what the loader, the initramfs and the agent of that boot left
 * behind; empty when the family leaves no traces.
 */
export async function describeTrial(
  boot: Disk,
  control: BootControl,
  { phase }: UpdateState,
  slot: string,
): Promise<string> {
  if (phase === 'trial') return 'the agent came up, and was cut off before its verdict'
  if (await control.loadFailed()) return 'loader: it could not load the kernel'
  const bytes = await boot.read(TRACE_PATH, 0, TRACE_BYTES + 1)
  if (bytes === undefined) return ''
  const trace = parseTrace(bytes)
  if (trace?.slot !== slot) return 'kernel: nothing was heard of it after the loader'
  if (trace.why !== '') return `${trace.stage}: ${trace.why}`
  return trace.stage === 'system'
    ? 'system: its init was started, the agent did not come up'
    : 'initramfs: it did not find or mount the root'
}
