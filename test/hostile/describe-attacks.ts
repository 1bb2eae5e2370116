import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { formatRows } from '../../protocol/terminal/print.ts'
import { CACHE, smallImageSet } from '../fleet/build-images.ts'
import { canUseNamespaces } from '../fleet/network.ts'
import type { Attack } from './attack.ts'
import { BadCompany, type Round } from './bad-company.ts'

/** The transfer subsystem's share, whatever a peer does (issue: 48 MiB), and what garbage collection leaves for a moment. */
const MAX_GROWN_MIB = 96

/**
 * A test for each attack, on one fleet that carries a release through every one of them.
 * @param table - the file, in the reports, that says what each of them cost
 */
export function describeAttacks(title: string, attacks: readonly Attack[], table: string): void {
  describe(title, () => {
    let company: BadCompany
    const rounds: (Round & { readonly name: string; readonly code: string })[] = []

    beforeAll(async () => {
      expect(canUseNamespaces(), 'network namespaces need root').toBe(true)
      company = await BadCompany.start(smallImageSet())
      rounds.push({ name: '(nobody)', code: '', ...(await company.round(undefined)) })
      rounds.push({ name: '(nobody)', code: '', ...(await company.round(undefined)) })
    })

    afterAll(async () => {
      await company?.close()
      const text = formatRows(rounds, [
        ['ATTACK', (row) => row.name],
        ['REFUSED WITH', (row) => row.code],
        ['ACTS', (row) => String(row.acts)],
        ['SENT', (row) => `${row.sentMB.toFixed(1)} MB`],
        ['CORES', (row) => row.cores.toFixed(2)],
        ['MEMORY', (row) => `+${row.grownMiB.toFixed(0)} MiB`],
        ['ALL DONE', (row) => `${row.finishSeconds.toFixed(1)} s`],
      ])
      process.stderr.write(text)
      const reports = join(CACHE, 'reports')
      mkdirSync(reports, { recursive: true })
      writeFileSync(join(reports, table), text)
    })

    it.each(attacks.map((attack) => [attack.name, attack] as const))('%s: spreads all the same', async (_, attack) => {
      const round = await company.round(attack)
      rounds.push({ name: attack.name, code: attack.refused?.code ?? '', ...round })
      expect(round.acts, `the attack did not happen: ${company.logOf(attack)}`).toBeGreaterThan(0)
      expect(round.refused, company.logOf(attack)).toBe(true)
      expect(round.grownMiB).toBeLessThan(MAX_GROWN_MIB)
    })
  })
}
