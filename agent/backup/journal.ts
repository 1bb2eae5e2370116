import { type JsonObject, parseJson, shape } from '../../protocol/shape.ts'
import type { Disk } from '../store/disk.ts'
import { GenerationFile } from '../store/generation-file.ts'

/** What is under way, on disk before it is done, for who comes up after a power cut. One entry, or none. */
export class Journal<Entry extends object> {
  readonly #file: GenerationFile
  readonly #path: string
  readonly #maxBytes: number
  readonly #parse: (json: JsonObject, what: string) => Entry

  /** @param parse - of what `note` was given; its messages begin with `what` */
  constructor(persist: Disk, path: string, maxBytes: number, parse: (json: JsonObject, what: string) => Entry) {
    this.#file = new GenerationFile(persist, path, maxBytes)
    this.#path = path
    this.#maxBytes = maxBytes
    this.#parse = parse
  }

  async note(entry: Entry): Promise<void> {
    await this.#file.write(Buffer.from(JSON.stringify(entry)))
  }

  async clear(): Promise<void> {
    await this.#file.write(Buffer.from('{}'))
  }

  /** What an agent that was killed left; undefined when nothing. @throws FlotillaError FORMAT, LENGTH */
  async read(): Promise<Entry | undefined> {
    const bytes = await this.#file.read()
    if (bytes === undefined) return undefined
    const json = shape.object(parseJson(bytes, this.#path, this.#maxBytes), this.#path)
    return Object.keys(json).length === 0 ? undefined : this.#parse(json, this.#path)
  }
}
