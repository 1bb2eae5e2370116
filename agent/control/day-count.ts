import type { Disk } from '../store/disk.ts'
import { GenerationFile } from '../store/generation-file.ts'
import { parseJson, shape } from '../../protocol/shape.ts'

const MAX_BYTES = 4_096
/** So many bytes are forgotten by a power cut at most, or an eighth of the budget. */
const SAVE_BYTES = 16 * 2 ** 20
const DAY_MS = 86_400_000

/**
 * Bytes that moved today, by interface; kept over restarts. Days are those of UTC, never before the time floor: boards wake up
 * in 1970.
 */
export class DayCount {
  readonly #file: GenerationFile
  #day: number
  #byLink: Map<string, number>
  #savedBytes: number
  /** What was counted since the start, as of the last look. */
  #before: ReadonlyMap<string, number> = new Map()

  private constructor(file: GenerationFile, day: number, byLink: Map<string, number>) {
    this.#file = file
    this.#day = day
    this.#byLink = byLink
    this.#savedBytes = this.total
  }

  static async open(persist: Disk): Promise<DayCount> {
    const file = new GenerationFile(persist, 'update/traffic', MAX_BYTES)
    const bytes = await file.read()
    const json = bytes === undefined ? {} : shape.object(parseJson(bytes, 'traffic', MAX_BYTES), 'traffic')
    const day = json['day'] === undefined ? 0 : shape.integer(json['day'], 'traffic.day', 0)
    const links = Object.entries(shape.object(json['links'] ?? {}, 'traffic.links'))
    return new DayCount(
      file,
      day,
      new Map(links.map(([name, count]) => [name, shape.integer(count, 'traffic.links[]', 0)])),
    )
  }

  get total(): number {
    return [...this.#byLink.values()].reduce((sum, bytes) => sum + bytes, 0)
  }

  get byLink(): ReadonlyMap<string, number> {
    return this.#byLink
  }

  /**
   * @param byLink - bytes since the agent started
   * @param nowMs - wall clock, not before the time floor
   */
  count(byLink: ReadonlyMap<string, number>, nowMs: number): void {
    for (const [name, bytes] of byLink)
      this.#byLink.set(name, (this.#byLink.get(name) ?? 0) + bytes - (this.#before.get(name) ?? 0))
    this.#before = new Map(byLink)
    const day = Math.floor(nowMs / DAY_MS)
    if (day <= this.#day) return
    this.#day = day
    this.#byLink = new Map()
    this.#savedBytes = -Infinity
  }

  /** Writes it down when it has grown by 16 MiB, or by an eighth of the budget, since it was last written. */
  async save(budgetBytes: number): Promise<void> {
    const { total } = this
    if (total === this.#savedBytes || total - this.#savedBytes < Math.min(SAVE_BYTES, budgetBytes / 8)) return
    const links = Object.fromEntries([...this.#byLink].slice(0, 64))
    await this.#file.write(Buffer.from(JSON.stringify({ day: this.#day, links })))
    this.#savedBytes = total
  }
}
