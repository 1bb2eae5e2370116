import { parseJson, shape } from '../../protocol/shape.ts'
import type { Disk } from '../store/disk.ts'
import { GenerationFile } from '../store/generation-file.ts'
import type { FailedDefinition } from './plan-core.ts'

const MAX_BYTES = 262_144
const MAX_ENTRIES = 1_000

/** What Docker cannot remember for us: containers that were taken over, replacements that did not come up, images that releases brought. */
export class CoreMemory {
  readonly #file: GenerationFile
  readonly adopted = new Map<string, string>()
  readonly failed = new Map<string, FailedDefinition>()
  readonly loaded = new Set<string>()

  private constructor(file: GenerationFile) {
    this.#file = file
  }

  static async open(persist: Disk): Promise<CoreMemory> {
    const memory = new CoreMemory(new GenerationFile(persist, 'core/memory', MAX_BYTES))
    const bytes = await memory.#file.read()
    if (bytes === undefined) return memory
    const json = shape.object(parseJson(bytes, 'core/memory', MAX_BYTES), 'core/memory')
    const text = (value: unknown, key: string) => shape.string(value, `core/memory: ${key}`, 4_096)
    for (const [id, definition] of Object.entries(shape.object(json['adopted'], 'core/memory: adopted')))
      memory.adopted.set(id, text(definition, 'adopted'))
    for (const [name, value] of Object.entries(shape.object(json['failed'], 'core/memory: failed'))) {
      const entry = shape.object(value, 'core/memory: failed')
      memory.failed.set(name, {
        definition: text(entry['definition'], 'failed.definition'),
        imageId: text(entry['imageId'], 'failed.imageId'),
        reason: text(entry['reason'], 'failed.reason'),
      })
    }
    for (const digest of shape.array(json['loaded'] ?? [], 'core/memory: loaded', MAX_ENTRIES))
      memory.loaded.add(text(digest, 'loaded'))
    return memory
  }

  /** Returns once it is on the medium. */
  async save(): Promise<void> {
    const newest = <T>(map: ReadonlyMap<string, T>) => Object.fromEntries([...map].slice(-MAX_ENTRIES))
    const failed = Object.fromEntries(
      [...this.failed].map(([name, entry]) => [name, { ...entry, reason: entry.reason.slice(0, 1_000) }]),
    )
    await this.#file.write(
      Buffer.from(
        JSON.stringify({ adopted: newest(this.adopted), failed, loaded: [...this.loaded].slice(-MAX_ENTRIES) }),
      ),
    )
  }
}
