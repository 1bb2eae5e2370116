import { shape } from '../../protocol/shape.ts'
import type { Disk } from '../store/disk.ts'
import { Journal } from './journal.ts'

/** A container that was paused or stopped to be read: an agent that comes up again lets it go on. */
export type Stillness = { readonly container: string; readonly how: 'pause' | 'stop' }

export type StillnessJournal = Journal<Stillness>

const MAX_BYTES = 1_024

export function stillnessJournal(persist: Disk): StillnessJournal {
  return new Journal(persist, 'backup/still', MAX_BYTES, (json, what) => ({
    container: shape.string(json['container'], `${what}: container`, 128),
    how: shape.oneOf(json['how'], `${what}: how`, ['pause', 'stop']),
  }))
}
