import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'

/**
 * The Buildroot that boards are made with: the LTS line that is maintained until March 2028.
 * Commit and tree are what `git rev-parse` says of the tag; a clone that differs is not used.
 */
export const PINNED = {
  version: '2025.02.16',
  commit: '135af563b945b8c3d18f8fd370370075b9edb140',
  tree: 'b63f91532701a0c721231e508e1f34e351067c08',
  url: 'https://gitlab.com/buildroot.org/buildroot.git',
} as const

/** A Buildroot source tree. `pinned`: it is the version that the layers are made for. */
export type Buildroot = { readonly path: string; readonly version: string; readonly pinned: boolean }

/**
 * Finds Buildroot: BUILDROOT_DIR, a checkout in `cache`, a clone of the pinned commit, in this order.
 * @param say - told before the clone, which takes minutes
 * @throws FlotillaError NOT_FOUND with what to do, BAD_INPUT when BUILDROOT_DIR is none
 */
export function findBuildroot(
  environment: Readonly<Record<string, string | undefined>>,
  cache: string,
  say: (line: string) => void,
): Buildroot {
  const named = environment['BUILDROOT_DIR']
  if (named !== undefined && named !== '') return readBuildroot(resolve(named), 'BUILDROOT_DIR')
  const checkout = join(cache, `buildroot-${PINNED.version}`)
  if (!existsSync(checkout)) clone(checkout, say)
  return readBuildroot(checkout, 'the cached Buildroot')
}

/** Reads the version that a tree says it has. @throws FlotillaError BAD_INPUT */
export function readBuildroot(path: string, what: string): Buildroot {
  let makefile: string
  try {
    makefile = readFileSync(join(path, 'Makefile'), 'utf8')
  } catch (cause) {
    throw new FlotillaError('BAD_INPUT', `use ${what} ${path}: ${messageOf(cause)}`, { cause })
  }
  const version = /^export BR2_VERSION := (\S+)/m.exec(makefile)?.[1]
  if (version === undefined || !existsSync(join(path, 'Config.in')))
    throw new FlotillaError('BAD_INPUT', `use ${what} ${path}: it is not a Buildroot source tree`)
  return { path, version, pinned: version === PINNED.version }
}

function clone(checkout: string, say: (line: string) => void): void {
  const fresh = `${checkout}.new`
  rmSync(fresh, { recursive: true, force: true })
  say(`clone Buildroot ${PINNED.version} from ${PINNED.url}`)
  const git = (...args: string[]) =>
    execFileSync('git', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim()
  try {
    git('clone', '--quiet', '--depth=1', '--branch', PINNED.version, PINNED.url, fresh)
  } catch (cause) {
    throw new FlotillaError(
      'NOT_FOUND',
      `get Buildroot ${PINNED.version}: ${lastLine(messageOf(cause))}; without a network unpack it anywhere and set BUILDROOT_DIR`,
      { cause },
    )
  }
  const found = { commit: git('-C', fresh, 'rev-parse', 'HEAD'), tree: git('-C', fresh, 'rev-parse', 'HEAD^{tree}') }
  if (found.commit !== PINNED.commit || found.tree !== PINNED.tree)
    throw new FlotillaError(
      'VERIFY_FAILED',
      `get Buildroot ${PINNED.version}: the tag is commit ${found.commit}, wanted ${PINNED.commit}; it is left in ${fresh} and not used`,
    )
  renameSync(fresh, checkout)
}

function lastLine(text: string): string {
  return text.trim().split('\n').at(-1) ?? ''
}
