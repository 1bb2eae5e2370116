import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'
import { ROOT } from './gates.ts'

/** What takes minutes begins first: begun last it would leave the other core idle. */
const LONGEST = [
  'simulation/rollout',
  'hostile/news-attacks',
  'hostile/exchange-attacks',
  'fleet/radio',
  'fleet/main-job',
  'backup/adopt',
  'core/peers',
]

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification) => {
      const at = LONGEST.findIndex((name) => moduleId.includes(`/${name}.`))
      return at < 0 ? LONGEST.length : at
    }
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b))
  }
}

/** Programs, machines and networks take their time to come up. */
const PATIENT = { testTimeout: 300_000, hookTimeout: 180_000 }

export default defineConfig({
  root: ROOT,
  test: {
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        test: {
          name: 'unit',
          include: [
            'agent/**/*.test.ts',
            'builder/**/*.test.ts',
            'protocol/**/*.test.ts',
            'test/trust/**/*.test.ts',
            'test/slots/**/*.test.ts',
            'test/simulation/**/*.test.ts',
            'test/fuzz/**/*.test.ts',
          ],
          testTimeout: 180_000,
          hookTimeout: 60_000,
          maxWorkers: 2,
        },
      },
      // Builds, disk images, virtual machines and gates.
      {
        test: {
          name: 'machine',
          include: ['boot', 'buildroot', 'gates', 'images', 'machine'].map(
            (room) => `test/${room}/**/!(*.whole).test.ts`,
          ),
          ...PATIENT,
          maxWorkers: 3,
        },
      },
      // The same, whole: `npm run test:machine`.
      {
        test: {
          name: 'whole',
          include: ['test/machine/**/*.test.ts', 'test/boot/*.whole.test.ts', 'test/backup/*.whole.test.ts'],
          ...PATIENT,
          testTimeout: 1_800_000,
          maxWorkers: 2,
        },
      },
      // A Docker Engine for each file. Apart from the fleets, whose links and timers they would hold up.
      {
        test: {
          name: 'containers',
          include: ['core', 'login', 'backup'].map((room) => `test/${room}/**/!(*.whole).test.ts`),
          ...PATIENT,
          maxWorkers: 3,
        },
      },
      // Fleets wait for each other most of the time. One run, so that no core idles while the last hostile file ends.
      {
        test: {
          name: 'fleet',
          include: ['hostile', 'fleet'].map((room) => `test/${room}/**/*.test.ts`),
          ...PATIENT,
          maxWorkers: 4,
        },
      },
    ],
  },
})
