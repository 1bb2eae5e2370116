import { FlotillaError, isFlotillaError, messageOf } from '../../protocol/errors.ts'
import type { OnProgress } from './restic.ts'

/** One wish, as `flotilla backup` shows it. */
export type Job = {
  readonly id: number
  readonly kind: string
  readonly container: string
  readonly state: 'waiting' | 'running' | 'done' | 'failed'
  /** 0 … 1. */
  readonly share: number
  readonly text: string
  /** What came of it, for a person. */
  readonly result: string
  readonly code: string
}

type Work = (onProgress: OnProgress) => Promise<string>

const KEPT = 50
const MOST_WAITING = 20

function isOver({ state }: Job): boolean {
  return state === 'done' || state === 'failed'
}

/** Works on one repository one after another; what waits and what is done can be looked at. */
export class JobList {
  readonly #jobs = new Map<number, Job>()
  #queue: Promise<unknown> = Promise.resolve()
  #last = 0

  all(): readonly Job[] {
    return [...this.#jobs.values()]
  }

  get isBusy(): boolean {
    return this.all().some((job) => !isOver(job))
  }

  /** @throws FlotillaError NOT_FOUND for one that is too long ago */
  get(id: number): Job {
    const job = this.#jobs.get(id)
    if (job === undefined) throw new FlotillaError('NOT_FOUND', `backup job ${id}: there is none any more`)
    return job
  }

  /** Adds a job, to be done after those that wait. @throws FlotillaError BUSY when too many do */
  add(kind: string, container: string, work: Work): { readonly job: Job; readonly ended: Promise<Job> } {
    const waiting = this.all().filter(({ state }) => state === 'waiting')
    if (waiting.length >= MOST_WAITING)
      throw new FlotillaError('BUSY', `${kind} ${container}: ${waiting.length} other jobs wait; try again later`)
    this.#last += 1
    const id = this.#last
    const job: Job = { id, kind, container, state: 'waiting', share: 0, text: '', result: '', code: '' }
    this.#jobs.set(id, job)
    for (const old of this.all()) if (this.#jobs.size > KEPT && isOver(old)) this.#jobs.delete(old.id)
    const ended = this.#queue.then(() => this.#run(id, work))
    this.#queue = ended
    return { job, ended }
  }

  /** Resolves once nothing is under way. */
  async settled(): Promise<void> {
    await this.#queue
  }

  #set(id: number, change: Partial<Job>): Job {
    const next = { ...this.get(id), ...change }
    this.#jobs.set(id, next)
    return next
  }

  async #run(id: number, work: Work): Promise<Job> {
    this.#set(id, { state: 'running' })
    try {
      const result = await work((share, text) => void this.#set(id, { share: Math.min(1, Math.max(0, share)), text }))
      return this.#set(id, { state: 'done', share: 1, result })
    } catch (error) {
      const code = isFlotillaError(error) ? error.code : 'UNEXPECTED'
      return this.#set(id, { state: 'failed', result: messageOf(error), code })
    }
  }
}
