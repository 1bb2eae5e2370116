import { parseJson, shape } from '../../protocol/shape.ts'
import type { Baseline } from '../health/judge-health.ts'
import type { Disk } from '../store/disk.ts'
import { GenerationFile } from '../store/generation-file.ts'
import { type Candidate, IDLE, type UpdateState } from './update-machine.ts'

/** What must survive a reboot: the state of the update and what was healthy before it. */
export type UpdateJournalEntry = { readonly state: UpdateState; readonly baseline: Baseline }

const MAX_BYTES = 262_144
const NO_BASELINE: Baseline = { peers: [], engine: false, containers: [] }

/** The state of the update on disk, in two generations. A journal that cannot be read counts as a fresh device. */
export class UpdateJournal {
  readonly #file: GenerationFile

  constructor(persist: Disk) {
    this.#file = new GenerationFile(persist, 'update/state', MAX_BYTES)
  }

  async load(): Promise<UpdateJournalEntry> {
    const bytes = await this.#file.read()
    if (bytes === undefined) return { state: IDLE, baseline: NO_BASELINE }
    return parseEntry(bytes)
  }

  async save(entry: UpdateJournalEntry): Promise<void> {
    await this.#file.write(Buffer.from(JSON.stringify(entry)))
  }
}

function parseEntry(bytes: Uint8Array): UpdateJournalEntry {
  const json = shape.object(parseJson(bytes, 'update journal', MAX_BYTES), 'update journal')
  const state = shape.object(json['state'], 'state')
  const baseline = shape.object(json['baseline'], 'baseline')
  const strings = (value: unknown, path: string) =>
    shape.array(value, path, 1_024).map((item) => shape.string(item, path, 256))
  const floor = shape.object(state['floor'], 'state.floor')
  return {
    state: {
      phase: shape.oneOf(state['phase'], 'state.phase', ['idle', 'fetching', 'written', 'armed', 'trial']),
      target: state['target'] === undefined ? undefined : parseCandidate(state['target']),
      failed: shape.array(state['failed'], 'state.failed', 64).map((item) => {
        const failed = shape.object(item, 'state.failed[]')
        const text = (key: string) => shape.string(failed[key], `failed.${key}`, 4_096)
        return { id: text('id'), version: text('version'), reason: text('reason'), log: text('log') }
      }),
      halted: shape.array(state['halted'] ?? [], 'state.halted', 64).map((item) => {
        const halted = shape.object(item, 'state.halted[]')
        return {
          id: shape.hex32(halted['id'], 'halted.id'),
          reason: shape.string(halted['reason'], 'halted.reason', 4_096),
        }
      }),
      dataVersion: shape.integer(state['dataVersion'] ?? 0, 'state.dataVersion', 0),
      floor: { era: shape.integer(floor['era'], 'floor.era', 0), seq: shape.integer(floor['seq'], 'floor.seq', 0) },
      transitions: shape.integer(state['transitions'], 'state.transitions', 0),
      rollbackTo:
        state['rollbackTo'] === undefined ? undefined : shape.string(state['rollbackTo'], 'state.rollbackTo', 16),
      outcome: shape.oneOf(state['outcome'], 'state.outcome', ['none', 'proven', 'fell-back']),
    },
    baseline: {
      peers: strings(baseline['peers'], 'baseline.peers'),
      engine: shape.boolean(baseline['engine'], 'baseline.engine'),
      containers: strings(baseline['containers'], 'baseline.containers'),
    },
  }
}

function parseCandidate(value: unknown): Candidate {
  const json = shape.object(value, 'state.target')
  return {
    id: shape.hex32(json['id'], 'target.id'),
    version: shape.string(json['version'], 'target.version', 64),
    era: shape.integer(json['era'], 'target.era', 0),
    seq: shape.integer(json['seq'], 'target.seq', 0),
    tries: shape.integer(json['tries'], 'target.tries', 1, 9),
  }
}
