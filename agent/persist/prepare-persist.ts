import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { isFlotillaError, messageOf } from '../../protocol/errors.ts'
import { parseCertificate } from '../../protocol/membership/certificate.ts'
import { executeStep } from './execute-persist.ts'
import { findPersist } from './find-persist.ts'
import { describeStep, PERSIST, type PersistContent, type PersistStep, planMount, planUse } from './plan-persist.ts'

/** How preparing ended. `rescue`: the device runs without its data, and says why; network and SSH are up all the same. */
export type PersistState = {
  readonly state: 'ready' | 'rescue'
  /** What failed, with its code; empty when nothing did. */
  readonly problems: readonly string[]
  readonly device: string
}

/** Where the state is told: to programs, and to whoever stands before the device. */
export const STATE_FILE = '/run/flotilla/persist.json'
const ISSUE_FILE = '/run/issue.d/flotilla.issue'
const MAX_KEY_BYTES = 65_536
const MAX_SWAP_MIB = 65_536

/**
 * Finds, checks, grows and mounts the persist partition, makes its tree, and puts what it holds in place. Every wait has a bound.
 * Without a sound partition the boot goes on in the rescue state: nothing is formatted or repaired by guessing.
 * @param onStep - told before each step
 */
export async function preparePersist(
  label: string,
  timeoutMs: number,
  onStep: (what: string) => void,
): Promise<PersistState> {
  const problems: string[] = []
  const run = async (step: PersistStep) => {
    onStep(describeStep(step))
    await executeStep(step)
  }
  let device = ''
  try {
    const found = await findPersist(label, timeoutMs)
    device = found.device
    // Growing can wait: a table that is odd, or a medium that wore out, must not keep the data away.
    for (const step of planMount(found)) {
      if (step.do !== 'grow-partition' && step.do !== 'grow-file-system') await run(step)
      else await run(step).catch((error: unknown) => problems.push(problemOf(step, error)))
    }
  } catch (error) {
    return tell({ state: 'rescue', problems: [...problems, withCode(error)], device })
  }
  // One thing that cannot be put in place, such as a key that cannot be read, does not keep the others away.
  for (const step of planUse(await readContent()))
    await run(step).catch((error: unknown) => problems.push(problemOf(step, error)))
  return tell({ state: 'ready', problems, device })
}

function problemOf(step: PersistStep, error: unknown): string {
  return `${describeStep(step)}: ${withCode(error)}`
}

function withCode(error: unknown): string {
  return isFlotillaError(error) ? `${error.message} [${error.code}]` : messageOf(error)
}

async function tell(state: PersistState): Promise<PersistState> {
  const words = [
    ...(state.state === 'rescue' ? ['This device runs WITHOUT its data (rescue).'] : []),
    ...state.problems,
  ]
  await write(STATE_FILE, `${JSON.stringify(state)}\n`)
  await write(ISSUE_FILE, words.length === 0 ? '' : `${words.join('\n')}\n\n`)
  return state
}

async function write(path: string, text: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, text)
}

async function readContent(): Promise<PersistContent> {
  const skiff = `${PERSIST}/skiff`
  const names = async (directory: string) => (await readdir(directory).catch(() => [])).sort()
  const text = async (path: string) => readFile(path, 'utf8').catch(() => '')
  const keyFiles = [
    ...(await names('/etc/skiff/authorized_keys')).map((name) => `/etc/skiff/authorized_keys/${name}`),
    ...(await names(`${skiff}/keys`)).map((name) => `${skiff}/keys/${name}`),
  ].filter((path) => path.endsWith('.pub'))
  const keys = await Promise.all(keyFiles.map(text))
  const swapMiB = Number((await text('/etc/flotilla/swap')).trim())
  const isSwap = Number.isSafeInteger(swapMiB) && swapMiB > 0 && swapMiB <= MAX_SWAP_MIB
  return {
    hostname: hostnameIn(await text(`${skiff}/hostname`)),
    fleetName: await nameInFleet(),
    hostKeys: (await names(`${skiff}/ssh`)).filter((name) => /^ssh_host_\w+_key(\.pub)?$/.test(name)),
    authorizedKeys: keys.flatMap((part) => part.slice(0, MAX_KEY_BYTES).trim().split('\n').filter(Boolean)),
    connections: (await names(`${skiff}/connections`)).filter((name) => /\.(network|netdev|link)$/.test(name)),
    swapMiB: isSwap ? swapMiB : 0,
    swapBytes: (await stat(`${skiff}/swap`).catch(() => undefined))?.size ?? 0,
  }
}

/** RFC 1123; anything else is as if nobody had chosen one. */
function hostnameIn(text: string): string {
  const first = text.split('\n')[0]?.trim() ?? ''
  return /^[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?$/.test(first) ? first : ''
}

async function nameInFleet(): Promise<string> {
  try {
    return hostnameIn(parseCertificate(await readFile(`${PERSIST}/flotilla/certificate.json`)).certificate.name)
  } catch {
    return '' // not enrolled yet
  }
}
