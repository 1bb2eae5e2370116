import { appendFileSync, mkdirSync, readFileSync, renameSync, statSync } from 'node:fs'
import { join } from 'node:path'

/** What matters most first. */
export const LEVELS = ['error', 'warn', 'info', 'debug'] as const
export type Level = (typeof LEVELS)[number]

/** One line of a device's history. `at` is the wall clock and may be wrong; `seq` and `uptimeMs` are not. */
export type DeviceEvent = {
  readonly seq: number
  readonly at: string
  readonly uptimeMs: number
  readonly level: Level
  readonly event: string
  readonly fields: Readonly<Record<string, string | number | boolean>>
}

const MAX_FILE_BYTES = 1_048_576
const MEMORY = 500

/** Keeps the last events in memory and on disk (`events.jsonl` and one older file, 1 MiB each). Never holds up the agent. */
export class EventLog {
  readonly #path: string
  readonly #recent: DeviceEvent[] = []
  readonly #echo: (event: DeviceEvent) => void
  #seq = 0

  /** @param echo - also gets every event: the journal of the system */
  constructor(directory: string, echo: (event: DeviceEvent) => void) {
    this.#path = join(directory, 'events.jsonl')
    this.#echo = echo
    mkdirSync(directory, { recursive: true })
    for (const event of readLines(this.#path).slice(-MEMORY)) {
      this.#recent.push(event)
      this.#seq = Math.max(this.#seq, event.seq)
    }
  }

  add(level: Level, event: string, fields: DeviceEvent['fields'] = {}): void {
    this.#seq += 1
    const entry: DeviceEvent = {
      seq: this.#seq,
      at: new Date().toISOString(),
      uptimeMs: Math.round(performance.now()),
      level,
      event,
      fields,
    }
    this.#recent.push(entry)
    if (this.#recent.length > MEMORY) this.#recent.shift()
    this.#echo(entry)
    if (level === 'debug') return
    try {
      if ((statSync(this.#path, { throwIfNoEntry: false })?.size ?? 0) > MAX_FILE_BYTES)
        renameSync(this.#path, `${this.#path}.1`)
      appendFileSync(this.#path, `${JSON.stringify(entry)}\n`)
    } catch (error) {
      // A full or broken disk must not stop the agent; the event is in memory and in the system's journal.
      this.#echo({ ...entry, level: 'warn', event: 'event-log-failed', fields: { error: String(error) } })
    }
  }

  /** Events after `seq`, oldest first. */
  since(seq: number): readonly DeviceEvent[] {
    return this.#recent.filter((event) => event.seq > seq)
  }
}

function readLines(path: string): DeviceEvent[] {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch {
    return []
  }
  const events: DeviceEvent[] = []
  for (const line of text.split('\n')) {
    try {
      const event = JSON.parse(line) as DeviceEvent
      if (Number.isSafeInteger(event.seq) && typeof event.event === 'string')
        events.push({ ...event, fields: event.fields ?? {} })
    } catch {
      // the line that was being written when the power failed
    }
  }
  return events
}
