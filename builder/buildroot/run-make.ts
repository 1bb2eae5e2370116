import { spawn } from 'node:child_process'
import { FlotillaError } from '../../protocol/errors.ts'

/** A Buildroot source tree with a directory to build in. */
export type BuildPlace = {
  readonly buildroot: string
  /** `O=`: absolute, without spaces. */
  readonly output: string
  /** BR2_DL_DIR: where source archives are kept. */
  readonly downloads: string
  /** BR2_EXTERNAL trees, in order. */
  readonly externals: readonly string[]
  /** Given to make as they are: FLOTILLA_PROGRAMS, where the agent's bundle is. */
  readonly variables: Readonly<Record<string, string>>
}

/**
 * The same place, with nothing fetched from a network: sources are in the directory of downloads, or the build stops at the
 * first that is not. Pure.
 */
export function offline(place: BuildPlace): BuildPlace {
  const only = { BR2_PRIMARY_SITE_ONLY: 'y', BR2_PRIMARY_SITE: `file://${place.downloads}` }
  return { ...place, variables: { ...place.variables, ...only } }
}

/**
 * The environment of a build: what Buildroot documents that it reads, and nothing else, since all of PATH and more leaks
 * into every recipe. As root some packages' configure scripts have to be told that this is meant.
 */
export function buildEnvironment(environment: NodeJS.ProcessEnv): Record<string, string> {
  const kept = [
    'HOME',
    'TERM',
    'SSH_AUTH_SOCK',
    'http_proxy',
    'https_proxy',
    'no_proxy',
    'BR2_DL_DIR',
    'BR2_CCACHE_DIR',
    'BR2_JLEVEL',
    'SOURCE_DATE_EPOCH',
  ]
  const clean: Record<string, string> = {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    LC_ALL: 'C',
  }
  for (const [name, value] of Object.entries(environment)) {
    if (value !== undefined && (kept.includes(name) || name.startsWith('SKIFF_'))) clean[name] = value
  }
  if (process.getuid?.() === 0) clean['FORCE_UNSAFE_CONFIGURE'] = '1'
  return clean
}

/** What `make` printed. */
export type MakeResult = { readonly code: number; readonly output: string }

/**
 * Runs `make` of Buildroot and collects what it prints, both streams together.
 * @param onLine - each line as it comes
 */
export function runMake(
  place: BuildPlace,
  args: readonly string[],
  { environment = process.env, onLine = (_line: string) => {}, signal = undefined as AbortSignal | undefined } = {},
): Promise<MakeResult> {
  const list = makeArguments(place, args)
  return new Promise((resolve, reject) => {
    const child = spawn('make', list, {
      env: { ...buildEnvironment(environment), BR2_DL_DIR: place.downloads },
      stdio: ['ignore', 'pipe', 'pipe'],
      signal,
    })
    let text = ''
    let rest = ''
    const take = (part: string) => {
      text = (text + part).slice(-MAX_OUTPUT)
      const lines = (rest + part).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) onLine(line)
    }
    child.stdout.setEncoding('utf8').on('data', take)
    child.stderr.setEncoding('utf8').on('data', take)
    // Interrupted it still ends what it is in the middle of, and says so: nobody else may begin meanwhile.
    child.once('error', (cause) => (signal?.aborted === true ? undefined : reject(noMake(cause))))
    child.once('close', (code) =>
      signal?.aborted === true ? reject(interrupted()) : resolve({ code: code ?? 1, output: text }),
    )
  })
}

/** What Buildroot says of every package of a configuration: a JSON text. @throws FlotillaError BUILD_FAILED */
export async function showInfo(place: BuildPlace): Promise<string> {
  const { code, output } = await runMake(place, ['-s', '--no-print-directory', 'show-info'])
  const start = output.indexOf('{')
  if (code === 0 && start >= 0) return output.slice(start)
  throw new FlotillaError('BUILD_FAILED', `make show-info: ${output.trim().split('\n').at(-1) ?? `ended with ${code}`}`)
}

/** Runs `make` of Buildroot with this process's terminal. @returns its exit code */
export function runMakeOnTerminal(place: BuildPlace, args: readonly string[]): Promise<number> {
  return runInherited('make', makeArguments(place, args), {
    ...buildEnvironment(process.env),
    BR2_DL_DIR: place.downloads,
  })
}

/** Runs a program with this process's terminal. @returns its exit code. @throws FlotillaError NOT_FOUND */
export function runInherited(
  program: string,
  args: readonly string[],
  environment: NodeJS.ProcessEnv,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { env: environment, stdio: 'inherit' })
    child.once('error', (cause) => reject(noMake(cause)))
    child.once('close', (code) => resolve(code ?? 1))
  })
}

function makeArguments({ buildroot, output, externals, variables }: BuildPlace, args: readonly string[]): string[] {
  const settings = Object.entries(variables).map(([name, value]) => `${name}=${value}`)
  return ['-C', buildroot, `O=${output}`, `BR2_EXTERNAL=${externals.join(':')}`, ...settings, ...args]
}

function interrupted(): FlotillaError {
  return new FlotillaError('BUILD_FAILED', 'interrupted; the next build goes on from here')
}

function noMake(cause: Error): FlotillaError {
  return new FlotillaError('NOT_FOUND', `run make: ${cause.message}; on Debian: apt-get install make`, { cause })
}

/** The end of a long build; its beginning is in the log file. */
const MAX_OUTPUT = 4 * 2 ** 20
