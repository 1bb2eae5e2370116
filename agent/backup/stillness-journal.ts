import { parseJson, shape } from '../../protocol/shape.ts'
import type { Disk } from '../store/disk.ts'
import { GenerationFile } from '../store/generation-file.ts'

/** A container that was paused or stopped to be read: an agent that comes up again lets it go on. */
export type Stillness = { readonly container: string; readonly how: 'pause' | 'stop' }

const MAX_BYTES = 1_024

export class StillnessJournal {
  readonly #file: GenerationFile

  constructor(persist: Disk) {
    this.#file = new GenerationFile(persist, 'backup/still', MAX_BYTES)
  }

  async note(stillness: Stillness): Promise<void> {
    await this.#file.write(Buffer.from(JSON.stringify(stillness)))
  }

  async clear(): Promise<void> {
    await this.#file.write(Buffer.from('{}'))
  }

  /** What an agent that was killed left so; undefined when nothing. */
  async read(): Promise<Stillness | undefined> {
    const bytes = await this.#file.read()
    const json = bytes === undefined ? {} : shape.object(parseJson(bytes, 'backup/still', MAX_BYTES), 'backup/still')
    if (json['container'] === undefined) return undefined
    return {
      container: shape.string(json['container'], 'backup/still: container', 128),
      how: shape.oneOf(json['how'], 'backup/still: how', ['pause', 'stop']),
    }
  }
}
