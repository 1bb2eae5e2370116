import { mkdir, readdir, readFile, stat, statfs, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { FlotillaError, isFlotillaError, messageOf } from '../../protocol/errors.ts'
import { parseCertificate } from '../../protocol/membership/certificate.ts'
import { parseJson, shape } from '../../protocol/shape.ts'
import { executeStep } from './execute-persist.ts'
import { findPersist } from './find-persist.ts'
import {
  describeStep,
  PERSIST,
  type PersistContent,
  type PersistStep,
  planLogin,
  planMount,
  planSwap,
  planTree,
  planUse,
} from './plan-persist.ts'

/** How preparing ended. `rescue`: the device runs without its data, and says why; network and SSH are up all the same. */
export type PersistState = {
  readonly state: 'ready' | 'rescue'
  /** What failed, with its code; empty when nothing did. */
  readonly problems: readonly string[]
  readonly device: string
}

/** Where the state is told: to programs, and to whoever stands before the device. */
const STATE_FILE = '/run/flotilla/persist.json'
/** agetty shows /etc/issue.d beside /etc/issue; /run/issue.d only where there is no /etc/issue. */
const ISSUE_FILE = '/etc/issue.d/flotilla.issue'
/** Keys that the image brings: SkiffOS's place for them. */
const IMAGE_KEYS = '/etc/skiff/authorized_keys'
const MAX_KEY_BYTES = 65_536
const MAX_STATE_BYTES = 65_536
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
  // One thing that cannot be put in place, such as a key that cannot be read, does not keep the others away.
  const tryAll = async (steps: readonly PersistStep[]) => {
    for (const step of steps) await run(step).catch((error: unknown) => problems.push(problemOf(step, error)))
  }
  let device = ''
  try {
    // A container was given a directory, which grows with what it lies on.
    const found = (await isGiven()) ? undefined : await findPersist(label, timeoutMs)
    device = found?.device ?? ''
    // Growing can wait: a table that is odd, or a medium that wore out, must not keep the data away.
    for (const step of found === undefined ? [] : planMount(found)) {
      if (step.do === 'grow-partition') await tryAll([step])
      else await run(step)
    }
    await tryAll(planTree(found))
  } catch (error) {
    problems.push(withCode(error))
    await tryAll(planLogin(await readAuthorizedKeys([IMAGE_KEYS])))
    return tell({ state: 'rescue', problems, device })
  }
  await tryAll(planUse(await readContent()))
  return tell({ state: 'ready', problems, device })
}

/** Whether the loader put persist in place: `flotilla-container` does, and says so. */
async function isGiven(): Promise<boolean> {
  return / flotilla\.persist=mounted(?=\s)/.test(await readFile('/proc/cmdline', 'latin1'))
}

/** How it ended at this boot. @throws FlotillaError NOT_FOUND when nothing was prepared, FORMAT */
export async function readPersistState(): Promise<PersistState> {
  const text = await readFile(STATE_FILE).catch((cause: unknown) => {
    throw new FlotillaError('NOT_FOUND', `persist status: ${STATE_FILE} is not there; was it prepared?`, { cause })
  })
  const json = shape.object(parseJson(text, STATE_FILE, MAX_STATE_BYTES), STATE_FILE)
  const string = (value: unknown, key: string) => shape.string(value, `${STATE_FILE}: ${key}`, MAX_STATE_BYTES)
  return {
    state: shape.oneOf(json['state'], `${STATE_FILE}: state`, ['ready', 'rescue']),
    problems: shape
      .array(json['problems'], `${STATE_FILE}: problems`, MAX_STATE_BYTES)
      .map((problem) => string(problem, 'problems[]')),
    device: string(json['device'], 'device'),
  }
}

/**
 * Makes the swap file that `/etc/flotilla/swap` asks for, and uses it. Apart from the rest: it may take minutes.
 * @throws FlotillaError NOT_ENOUGH_SPACE, DISK_FAILED, TIMEOUT
 */
export async function prepareSwap(onStep: (what: string) => void): Promise<void> {
  const mebibytes = Number((await readFile('/etc/flotilla/swap', 'utf8').catch(() => '0')).trim())
  const isWish = Number.isSafeInteger(mebibytes) && mebibytes >= 0 && mebibytes <= MAX_SWAP_MIB
  if (!isWish) throw new FlotillaError('BAD_CONFIG', `/etc/flotilla/swap: wanted a number of MiB up to ${MAX_SWAP_MIB}`)
  const { bavail, bsize } = await statfs(PERSIST)
  const presentBytes = (await stat(`${PERSIST}/skiff/swap`).catch(() => undefined))?.size ?? 0
  for (const step of planSwap({ wantedBytes: mebibytes * 2 ** 20, presentBytes, freeBytes: bavail * bsize })) {
    onStep(describeStep(step))
    await executeStep(step)
  }
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
  return {
    hostname: hostnameIn(await textOf(`${skiff}/hostname`)),
    fleetName: await nameInFleet(),
    hostKeys: (await namesIn(`${skiff}/ssh`)).filter((name) => /^ssh_host_\w+_key(\.pub)?$/.test(name)),
    authorizedKeys: await readAuthorizedKeys([IMAGE_KEYS, `${skiff}/keys`]),
    connections: (await namesIn(`${skiff}/connections`)).filter((name) => /\.(network|netdev|link)$/.test(name)),
  }
}

async function readAuthorizedKeys(directories: readonly string[]): Promise<readonly string[]> {
  const keys: string[] = []
  for (const directory of directories)
    for (const name of (await namesIn(directory)).filter((one) => one.endsWith('.pub')))
      keys.push(...(await textOf(join(directory, name))).slice(0, MAX_KEY_BYTES).trim().split('\n').filter(Boolean))
  return keys
}

async function namesIn(directory: string): Promise<readonly string[]> {
  return (await readdir(directory).catch(() => [])).sort()
}

async function textOf(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '')
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
