import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { BaseFetcher, Updater } from 'tuf-js'
import { DownloadHTTPError } from '../../node_modules/tuf-js/dist/error.js'
import { describe, expect, it } from 'vitest'
import { judgeBundle } from '../../protocol/trust/metadata-bundle.ts'
import { DEVICE_CAPS } from '../../protocol/trust/metadata.ts'
import { trustRoot, type TrustRules } from '../../protocol/trust/trusted-set.ts'
import { ToyRepository, toyKey } from './toy-repository.ts'

/** Gives tuf-js the files of a bundle. */
class BundleFetcher extends BaseFetcher {
  readonly #files: ReadonlyMap<string, Uint8Array>

  constructor(files: ReadonlyMap<string, Uint8Array>) {
    super()
    this.#files = files
  }

  override fetch(url: string): Promise<never> {
    return Promise.reject(new DownloadHTTPError(url, 404))
  }

  override downloadBytes(url: string): Promise<Buffer> {
    const bytes = this.#files.get(url.replace('p2p://x/', ''))
    return bytes === undefined
      ? Promise.reject(new DownloadHTTPError('no such file', 404))
      : Promise.resolve(Buffer.from(bytes))
  }
}

/** One thing an operator or an attacker does to a repository between two refreshes. */
const ACTIONS = [
  'release',
  'targets',
  'rotate-publisher',
  'rotate-root',
  'drop-role-bytes',
  'old-snapshot',
  'replay',
  'unsigned-root',
  'nothing',
] as const

describe('against tuf-js', () => {
  it('gives the same verdict on random histories of a repository', async () => {
    let accepted = 0
    let refused = 0
    await fc.assert(
      fc.asyncProperty(fc.array(fc.constantFrom(...ACTIONS), { minLength: 1, maxLength: 6 }), async (actions) => {
        const repository = new ToyRepository()
        const directory = mkdtempSync(join(tmpdir(), 'flotilla-oracle-'))
        mkdirSync(join(directory, 'targets'))
        writeFileSync(join(directory, 'root.json'), repository.roots[0] ?? '')
        const rules: TrustRules = {
          keys: 'ed25519-only',
          caps: DEVICE_CAPS,
          expiry: { mode: 'clock', nowMs: Date.now() },
        }
        let set = trustRoot(repository.roots[0] ?? new Uint8Array(), 0, rules)
        let replay = repository.bundle()
        try {
          for (const action of ['nothing' as const, ...actions]) {
            const before = repository.snapshot
            if (action === 'rotate-publisher') {
              repository.keys.publisher = [toyKey(`publisher-${repository.roots.length}`)]
              repository.signRoot()
            }
            if (action === 'rotate-root') {
              const old = repository.keys.root.slice(0, 2)
              repository.keys.root = [
                toyKey(`root-${repository.roots.length}-a`),
                toyKey(`root-${repository.roots.length}-b`),
              ]
              repository.signRoot(repository.keys.root, old)
            }
            if (action !== 'nothing' && action !== 'replay')
              repository.publish({
                targets: action === 'targets',
                board: action === 'release' || action === 'drop-role-bytes' || action === 'old-snapshot',
              })
            let bundle = action === 'replay' ? replay : repository.bundle()
            if (action === 'replay') bundle = { ...bundle, roots: repository.roots.slice(1) }
            if (action === 'old-snapshot') bundle = { ...bundle, snapshot: before }
            if (action === 'drop-role-bytes')
              bundle = { ...bundle, roles: new Map([...bundle.roles].filter(([name]) => name !== 'pi-4.stable')) }
            if (action === 'unsigned-root')
              bundle = {
                ...bundle,
                roots: [
                  ...bundle.roots,
                  Buffer.from(
                    JSON.stringify(JSON.parse(Buffer.from(repository.roots.at(-1) ?? '').toString()) as object).replace(
                      /"version":\d+/,
                      `"version":${repository.roots.length + 1}`,
                    ),
                  ),
                ],
              }
            if (action !== 'replay') replay = repository.bundle()

            const verdict = judgeBundle(set, { ...bundle, roots: bundle.roots.slice(set.root.data.version - 1) }, rules)
            const theirs = await refreshWithTufJs(directory, bundle)
            expect({ action, ok: verdict.refusal === undefined }).toEqual({ action, ok: theirs === undefined })
            set = verdict.set
            if (verdict.refusal === undefined) accepted += 1
            else {
              refused += 1
              return // tuf-js keeps half of a refused set; histories are comparable up to here
            }
          }
        } finally {
          rmSync(directory, { recursive: true })
        }
      }),
      { numRuns: 60, seed: 20261124 },
    )
    expect(accepted).toBeGreaterThan(50)
    expect(refused).toBeGreaterThan(10)
  })
})

async function refreshWithTufJs(directory: string, bundle: ReturnType<ToyRepository['bundle']>): Promise<unknown> {
  const files = new Map<string, Uint8Array>()
  bundle.roots.forEach((root, at) => files.set(`${at + 2}.root.json`, root))
  const version = (bytes: Uint8Array | undefined) =>
    (JSON.parse(Buffer.from(bytes ?? '').toString()) as { signed: { version: number } }).signed.version
  if (bundle.timestamp !== undefined) files.set('timestamp.json', bundle.timestamp)
  if (bundle.snapshot !== undefined) files.set(`${version(bundle.snapshot)}.snapshot.json`, bundle.snapshot)
  for (const [name, bytes] of bundle.roles) files.set(`${version(bytes)}.${name}.json`, bytes)
  const updater = new Updater({
    metadataDir: directory,
    metadataBaseUrl: 'p2p://x',
    targetBaseUrl: 'p2p://x',
    targetDir: join(directory, 'targets'),
    fetcher: new BundleFetcher(files),
  })
  try {
    await updater.refresh()
    await updater.getTargetInfo('pi-4/stable/release')
    return undefined
  } catch (error) {
    return error
  }
}
