import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseSkiffCore } from '../../protocol/core/skiff-core.ts'
import { CONTAINER_LABEL, DEFINITION_LABEL, definitionOf } from './create-options.ts'
import { type FoundContainer, isRunning } from './inventory.ts'
import { type CoreFacts, type CoreStep, describeStep, planCore } from './plan-core.ts'

const coreOf = (text: string) => parseSkiffCore(text, 'skiff-core.yaml').core
const FILE = 'containers: {arm: {image: "a:1", startAfterCreate: true, restartPolicy: always, mounts: ["data:/data"]}}'
const CHANGED =
  'containers: {arm: {image: "a:1", startAfterCreate: true, restartPolicy: always, mounts: ["data:/data"], tty: true}}'

/** Docker, as far as a plan needs it. Time is the number of steps done. */
class Model {
  containers: FoundContainer[] = []
  clock = 0

  do(step: CoreStep, text: string, imageId: string): void {
    this.clock += 1
    const at = this.containers.findIndex(({ name }) => name === step.at)
    const found = this.containers[at]
    if (step.do === 'create') {
      expect(found, `two named ${step.at}`).toBeUndefined()
      this.containers.push(this.#make(step.at, text, imageId))
    } else if (found === undefined) throw new Error(`no ${step.at} to ${step.do}`)
    else if (step.do === 'remove') this.containers.splice(at, 1)
    else if (step.do === 'rename') {
      expect(this.containers.some(({ name }) => name === step.to)).toBe(false)
      this.containers[at] = { ...found, name: step.to }
    } else if (step.do === 'start') this.containers[at] = { ...found, status: 'running' }
    else if (step.do === 'set-policy') this.containers[at] = { ...found, restartPolicy: step.policy }
    else if (step.do === 'stop') this.containers[at] = { ...found, status: 'exited', finishedMs: this.clock }
    this.#requireOne()
  }

  /** The engine comes up again: what it ran, and whatever is to run `always`, runs. */
  restartEngine(): void {
    this.containers = this.containers.map((found) =>
      found.restartPolicy === 'always' && found.status !== 'created' ? { ...found, status: 'running' } : found,
    )
    this.#requireOne()
  }

  #requireOne(): void {
    expect(this.containers.filter(isRunning).length).toBeLessThanOrEqual(1)
  }

  #make(name: string, text: string, imageId: string): FoundContainer {
    const spec = coreOf(text).containers.get('arm')
    if (spec === undefined) throw new Error('no arm')
    return {
      id: `id-${this.clock}`,
      name,
      imageId,
      image: 'a:1',
      labels: { [CONTAINER_LABEL]: 'arm', [DEFINITION_LABEL]: definitionOf(spec) },
      status: 'created',
      exitCode: 0,
      restarts: 0,
      health: 'none',
      restartPolicy: spec.restartPolicy,
      stopSeconds: 10,
      problem: '',
      createdMs: this.clock,
      finishedMs: 0,
      volumes: [
        { volume: 'data', target: '/data' },
        { volume: 'a'.repeat(64), target: '/made-by-image' },
      ],
      made: { binds: [], privileged: false, hostNetwork: false, tty: false, env: [], entrypoint: [], cmd: [] },
    }
  }

  facts(text: string, imageId: string, more: Partial<CoreFacts> = {}): CoreFacts {
    return {
      target: coreOf(text),
      containers: this.containers,
      images: new Map([['a:1', { id: imageId }]]),
      adopted: new Map(),
      holds: new Map(),
      failed: new Map(),
      started: new Set(),
      ...more,
    }
  }

  /** Plans and executes to the end, or `cuts` times only so many steps of a plan. */
  settle(text: string, imageId: string, cuts: readonly number[], more: Partial<CoreFacts> = {}): void {
    for (let round = 0; round < 20; round += 1) {
      const steps = planCore(this.facts(text, imageId, more)).flatMap((plan) => plan.steps)
      if (steps.length === 0) return
      const cut = cuts[round]
      for (const step of steps.slice(0, cut ?? steps.length)) this.do(step, text, imageId)
      if (cut !== undefined) this.restartEngine()
    }
    throw new Error(`does not settle: ${JSON.stringify(this.containers.map(({ name, status }) => [name, status]))}`)
  }
}

describe('a plan for containers', () => {
  it('converges whatever was cut off whenever, never runs two of one, and ends with one', () => {
    const change = fc.record({
      file: fc.constantFrom(FILE, CHANGED),
      image: fc.constantFrom('sha256:1', 'sha256:2'),
      cuts: fc.array(fc.integer({ min: 0, max: 7 }), { maxLength: 6 }),
    })
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 5 }), (changes) => {
        const model = new Model()
        for (const { file, image, cuts } of changes.slice(0, -1)) {
          for (const cut of cuts) {
            // Cut, and never finished: the file or the image changes meanwhile.
            const steps = planCore(model.facts(file, image)).flatMap((plan) => plan.steps)
            for (const step of steps.slice(0, cut)) model.do(step, file, image)
            model.restartEngine()
          }
        }
        const { file, image, cuts } = changes.at(-1) ?? { file: FILE, image: 'sha256:1', cuts: [] }
        model.settle(file, image, cuts)
        expect(model.containers.map(({ name, status, imageId }) => [name, status, imageId])).toEqual([
          ['arm', 'running', image],
        ])
      }),
      { numRuns: 300 },
    )
  })

  it('goes back to the container before when the new one failed, cut off or not', () => {
    for (let cut = 0; cut < 9; cut += 1) {
      const model = new Model()
      model.settle(FILE, 'sha256:1', [])
      const [before] = model.containers
      const plan = planCore(model.facts(CHANGED, 'sha256:1'))[0]
      for (const step of plan?.steps.slice(0, 6) ?? []) model.do(step, CHANGED, 'sha256:1')
      const spec = coreOf(CHANGED).containers.get('arm')
      const definition = spec === undefined ? '' : definitionOf(spec)
      const failed = new Map([['arm', { definition, imageId: 'sha256:1', reason: 'it ended' }]])
      model.settle(CHANGED, 'sha256:1', [cut], { failed })
      expect(model.containers.map(({ id, name, status }) => [id, name, status])).toEqual([
        [before?.id, 'arm', 'running'],
      ])
      expect(planCore(model.facts(CHANGED, 'sha256:1', { failed }))[0]).toMatchObject({
        state: 'failed',
        reason: expect.stringContaining('it ended; the container before runs on'),
      })
    }
  })

  it('carries the volumes over, and says in words what it would do', () => {
    const model = new Model()
    model.settle(FILE, 'sha256:1', [])
    const plan = planCore(model.facts(FILE, 'sha256:2'))[0]
    expect(plan?.reason).toBe('its image changed')
    expect(plan?.steps.map(describeStep)).toEqual([
      'create arm.flotilla-next with the volumes /made-by-image',
      'set the restart policy of arm to no',
      'stop arm',
      'rename arm to arm.flotilla-previous',
      'rename arm.flotilla-next to arm',
      'start arm',
      'wait until arm is healthy',
      'remove arm.flotilla-previous',
    ])
  })

  it('does not start again what ended by itself after it was up', () => {
    const model = new Model()
    model.settle(FILE, 'sha256:1', [])
    model.containers = model.containers.map((found) => ({ ...found, status: 'exited' }))
    expect(planCore(model.facts(FILE, 'sha256:1', { started: new Set(['id-1']) }))[0]?.state).toBe('as-wanted')
    expect(planCore(model.facts(FILE, 'sha256:1'))[0]?.reason).toBe('not running')
  })

  it('waits for an image with the old container running', () => {
    const model = new Model()
    model.settle(FILE, 'sha256:1', [])
    const images = new Map([['a:1', { waiting: 'fetching from peers: 40 %' }]])
    expect(planCore(model.facts(CHANGED, '', { images }))[0]).toEqual({
      name: 'arm',
      state: 'waiting',
      reason: 'image a:1: fetching from peers: 40 %',
      steps: [],
    })
  })
})
