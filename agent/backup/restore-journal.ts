import { shape } from '../../protocol/shape.ts'
import type { Disk } from '../store/disk.ts'
import { Journal } from './journal.ts'

/** A volume or mount: where it lies, where it is restored to meanwhile, and where what was there goes. */
export type Swap = {
  readonly at: string
  readonly path: string
  readonly staged: string
  readonly before: string
  readonly isFile: boolean
}

/** `prepare`: nothing that counts was touched. `switch`: all was restored and read back. `finish`: it stays; what was there goes. */
export type RestoreEntry = {
  readonly container: string
  readonly phase: 'prepare' | 'switch' | 'finish'
  readonly swaps: readonly Swap[]
  /** Whether the restored one is to run. */
  readonly runs: boolean
  /** Docker's ids of the container that was there, and of the restored one; empty when there is none. */
  readonly old: string
  readonly fresh: string
  /** Restart policy of the one that was there. */
  readonly policy: string
}

const MAX_BYTES = 262_144

export type RestoreJournal = Journal<RestoreEntry>

/** How far a restore is. */
export function restoreJournal(persist: Disk): RestoreJournal {
  return new Journal(persist, 'backup/restore', MAX_BYTES, (json, what) => ({
    container: shape.string(json['container'], `${what}: container`, 128),
    phase: shape.oneOf(json['phase'], `${what}: phase`, ['prepare', 'switch', 'finish']),
    swaps: shape.array(json['swaps'], `${what}: swaps`, 256).map((item) => {
      const swap = shape.object(item, `${what}: swaps[]`)
      const text = (key: string) => shape.string(swap[key], `${what}: swaps[].${key}`, 8_192)
      return {
        at: text('at'),
        path: text('path'),
        staged: text('staged'),
        before: text('before'),
        isFile: shape.boolean(swap['isFile'], `${what}: swaps[].isFile`),
      }
    }),
    runs: shape.boolean(json['runs'], `${what}: runs`),
    old: shape.string(json['old'], `${what}: old`, 128),
    fresh: shape.string(json['fresh'], `${what}: fresh`, 128),
    policy: shape.string(json['policy'], `${what}: policy`, 64),
  }))
}
