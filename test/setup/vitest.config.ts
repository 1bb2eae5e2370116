import { defineConfig } from 'vitest/config'
import { ROOT } from './gates.ts'

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
          maxWorkers: 2,
        },
      },
      // Fleets use the whole machine: one file after another.
      {
        test: {
          name: 'fleet',
          include: ['test/**/*.test.ts'],
          exclude: ['test/trust/**', 'test/slots/**', 'test/simulation/**', 'test/fuzz/**'],
          testTimeout: 300_000,
          hookTimeout: 180_000,
          fileParallelism: false,
        },
      },
    ],
  },
})
