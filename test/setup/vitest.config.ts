import { defineConfig } from 'vitest/config'
import { ROOT } from './gates.ts'

/** Programs, machines and networks take their time to come up. */
const PATIENT = { testTimeout: 300_000, hookTimeout: 180_000 }

export default defineConfig({
  root: ROOT,
  test: {
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
          maxWorkers: 3,
        },
      },
    ],
  },
})
