import { closeSync, openSync, statfsSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { FlotillaError } from '../../protocol/errors.ts'
import { parseJson, shape } from '../../protocol/shape.ts'
import { missingPackages } from './host-programs.ts'
import { type BuildError, BuildProgress, type BuildStep } from './build-progress.ts'
import hostPrograms from './host-programs.json' with { type: 'json' }
import { type BuildPlace, runMake, showInfo } from './run-make.ts'
import type { Workspace } from './workspace.ts'

/** A full build writes some gigabytes; with less than this it would end in the middle. */
const MIN_FREE_BYTES = 8 * 2 ** 30

/** A part of a build. @property check - throws when the build must not go on after it */
export type BuildStage = { readonly targets: readonly string[]; readonly check?: () => Promise<void> }

/**
 * Builds a configured workspace. Output goes to `build.log` of the workspace; what is watched are the steps.
 * Interrupted, it goes on where it was: Buildroot's stamps say what is done.
 * @param stages - make targets, one after another; after those of a stage its check decides whether the build goes on
 * @throws FlotillaError NOT_FOUND naming all missing host packages, NOT_ENOUGH_SPACE, BUILD_FAILED with the first error
 */
export async function compileWorkspace(
  place: BuildPlace,
  workspace: Workspace,
  stages: readonly BuildStage[],
  onStep: (step: BuildStep) => void,
  signal: AbortSignal,
): Promise<void> {
  const missing = missingPackages(hostPrograms, '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin')
  if (missing.length > 0)
    throw new FlotillaError('NOT_FOUND', `compile: the host lacks programs; apt-get install ${missing.join(' ')}`)
  const { bavail, bsize } = statfsSync(workspace.output)
  if (bavail * bsize < MIN_FREE_BYTES)
    throw new FlotillaError(
      'NOT_ENOUGH_SPACE',
      `compile in ${workspace.output}: ${Math.floor((bavail * bsize) / 2 ** 30)} GiB are free, a build needs ${MIN_FREE_BYTES / 2 ** 30}`,
    )
  const progress = new BuildProgress(await countPackages(place))
  const log = openSync(join(workspace.generated, 'build.log'), 'w')
  try {
    const onLine = (line: string) => {
      writeSync(log, `${line}\n`)
      const step = progress.take(line)
      if (step !== undefined) onStep(step)
    }
    for (const { targets, check } of stages) {
      for (const target of targets) {
        const { code } = await runMake(place, [target], { onLine, signal })
        if (code !== 0) throw failed(target, progress.error, join(workspace.generated, 'build.log'))
      }
      await check?.()
    }
  } finally {
    closeSync(log)
  }
}

function failed(target: string, error: BuildError | undefined, log: string): FlotillaError {
  const what = error === undefined ? 'make failed and said nothing' : `${error.package} (${error.step}): ${error.line}`
  return new FlotillaError(
    'BUILD_FAILED',
    `compile ${target}: ${what}; see ${log}${error === undefined ? '' : `:${error.at}`}`,
    {
      details: { ...error },
    },
  )
}

/** How many packages the configuration has; 0 when Buildroot does not tell. */
async function countPackages(place: BuildPlace): Promise<number> {
  try {
    const info = parseJson(Buffer.from(await showInfo(place)), 'show-info', 2 ** 24)
    return Object.keys(shape.object(info, 'show-info')).length
  } catch {
    return 0
  }
}
