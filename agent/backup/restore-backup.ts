import { lstat, mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { ContainerSpec } from '../../protocol/core/container-spec.ts'
import { withTag } from '../../protocol/core/image-name.ts'
import { FlotillaError, isFlotillaError, messageOf } from '../../protocol/errors.ts'
import { runProgram } from '../persist/run-program.ts'
import { shape } from '../../protocol/shape.ts'
import type { Engine } from '../core/engine.ts'
import { isRunning } from '../core/inventory.ts'
import { createContainer, SETTLE_MS } from '../core/execute-core.ts'
import { isNameless, NEXT, PREVIOUS } from '../core/plan-core.ts'
import { type BackupFacts, FACTS_FILE, IMAGE_FILE, LAYER, parseBackupFacts } from './backup-facts.ts'
import type { EngineReader } from './engine-reader.ts'
import { layTreeOver, makeImageOfTree, withArchiveOf } from './restore-tree.ts'
import type { OnProgress, Restic, StageMount } from './restic.ts'
import type { RestoreEntry, RestoreJournal, Swap } from './restore-journal.ts'

export type RestoreDeps = {
  readonly engine: Engine
  readonly reader: EngineReader
  readonly restic: Restic
  readonly workDirectory: string
  readonly lockDirectory: string
  readonly journal: RestoreJournal
  readonly suspend: (container: string, why: string) => Promise<() => void>
  /** The id of the image that the file's name stands for on this device; waits for one that is under way. Undefined when there is none. */
  readonly imageFor: (name: string) => Promise<string | undefined>
  readonly settleMs: number
  readonly signal: AbortSignal
}

export type RestoreWish = {
  readonly container: string
  /** As the file of this device wants it. */
  readonly spec: ContainerSpec
  readonly backup: string
  /** Leaves the container's own file system as the image has it. */
  readonly mountsOnly: boolean
}

const STAGED = '.flotilla-restore'
const BEFORE = '.flotilla-before'
const POLL_MS = 200
const FLUSH_MS = 600_000

/** What a backup says of itself. @throws FlotillaError NOT_FOUND, FORMAT */
export async function readFacts(restic: Restic, backup: string, signal: AbortSignal): Promise<BackupFacts> {
  return parseBackupFacts(await restic.read(backup, `/${FACTS_FILE}`, signal))
}

/**
 * Restores a backup beside what is there, reads it back, and only then puts it in its place; what was there comes back when the
 * restored container does not run. After a power cut the agent goes on or goes back (`recoverRestore`).
 * @throws FlotillaError NOT_FOUND, NOT_FOR_THIS_DEVICE when the image is another one, VERIFY_FAILED, BUSY, NOT_ENOUGH_SPACE
 */
export async function restoreBackup(wish: RestoreWish, deps: RestoreDeps, onProgress: OnProgress): Promise<void> {
  const { container, spec } = wish
  const { engine, restic, journal, signal } = deps
  const facts = await readFacts(restic, wish.backup, signal)
  const resume = await deps.suspend(container, 'it is being restored')
  try {
    if ((await engine.container(`${container}${PREVIOUS}`)) !== undefined)
      throw new FlotillaError(
        'BUSY',
        `restore ${container}: it is being replaced; try again when \`flotilla core status\` says as-wanted`,
      )
    const swaps = await planSwaps(container, facts, deps)
    const nobody = { old: '', fresh: '', policy: 'no' }
    await journal.note({ container, phase: 'prepare', swaps, runs: true, ...nobody })
    let fresh: string
    try {
      fresh = await prepare(wish, facts, swaps, deps, onProgress)
      await flush(swaps, (await deps.reader.container(fresh)).layers?.upper)
    } catch (error) {
      await discard(container, swaps, engine)
      await journal.clear()
      throw error
    }
    const current = await engine.container(container)
    const runs = spec.startAfterCreate || (current !== undefined && isRunning(current))
    const entry = { container, swaps, runs, old: current?.id ?? '', fresh, policy: current?.restartPolicy ?? 'no' }
    await journal.note({ ...entry, phase: 'switch' })
    try {
      await tryOut(entry, deps)
    } catch (error) {
      await switchBack(entry, engine)
      await journal.clear()
      throw error
    }
    await journal.note({ ...entry, phase: 'finish' })
    await finish(container, swaps, engine)
    await journal.clear()
    onProgress(1, 'done')
  } finally {
    await rm(stageOf(container, deps.workDirectory), { recursive: true, force: true })
    resume()
  }
}

/**
 * What an agent that was killed, or lost its power, left in the middle: what was only prepared is thrown away, what was being
 * switched is finished, and goes back when it cannot be, or when the restored container does not stay up.
 * @throws FlotillaError UNREACHABLE when the engine goes away; the signal's reason: then it is done the next time. Everything
 * else is told of, and does not come again
 */
export async function recoverRestore(
  engine: Engine,
  journal: RestoreJournal,
  workDirectory: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  const entry = await journal.read()
  if (entry === undefined) return undefined
  const what = await recoverEntry(entry, journal, { engine, settleMs: SETTLE_MS, signal })
  await rm(stageOf(entry.container, workDirectory), { recursive: true, force: true })
  await journal.clear()
  return `${entry.container}: ${what}`
}

async function recoverEntry(entry: RestoreEntry, journal: RestoreJournal, deps: SettleDeps): Promise<string> {
  const { container, swaps, fresh } = entry
  const { engine, signal } = deps
  if (entry.phase === 'prepare') {
    await discard(container, swaps, engine)
    return 'an unfinished restore was thrown away'
  }
  const isEnd = (error: unknown) => signal.aborted || isFlotillaError(error, 'UNREACHABLE')
  if (entry.phase === 'switch') {
    try {
      if (fresh === '' || (await engine.container(fresh)) === undefined)
        throw new FlotillaError('NOT_FOUND', `restore ${container}: the restored container is gone`)
      await tryOut(entry, deps)
    } catch (error) {
      if (isEnd(error)) throw error
      await switchBack(entry, engine)
      return `a restore could not be finished, what was there is back: ${messageOf(error)}`
    }
    await journal.note({ ...entry, phase: 'finish' })
  }
  try {
    await finish(container, swaps, engine)
    return 'a restore was finished'
  } catch (error) {
    if (isEnd(error)) throw error
    return `a restore was finished, but what was there before could not be removed: ${messageOf(error)}`
  }
}

/** What was written is on the medium before anything else goes by it. @param layer - where the restored file system lies */
async function flush(swaps: readonly Swap[], layer?: string): Promise<void> {
  const places = new Set([...swaps.map(({ path }) => dirname(path)), ...(layer === undefined ? [] : [layer])])
  for (const place of places) await runProgram('sync', ['-f', place], { timeoutMs: FLUSH_MS })
}

function stageOf(container: string, workDirectory: string): string {
  return join(workDirectory, 'restore', container)
}

/** Where each volume and mount lies here, and where it is restored to meanwhile: beside it, so that a rename puts it in its place. */
async function planSwaps(container: string, { parts }: BackupFacts, { reader }: RestoreDeps): Promise<readonly Swap[]> {
  const swaps: Swap[] = []
  for (const { at, kind, source, isFile } of parts) {
    const path = kind === 'volume' ? await reader.volumePath(source) : source
    const others = await reader.othersUsing(container, path)
    if (others.length > 0)
      throw new FlotillaError(
        'BUSY',
        `restore ${container}: ${source} is mounted by ${others.join(', ')} too, which would go on with what is there now; stop ${others.length === 1 ? 'it' : 'them'} first`,
      )
    swaps.push({ at, path, staged: `${path}${STAGED}`, before: `${path}${BEFORE}`, isFile })
  }
  return swaps
}

/** @returns the id of the restored container, which was not started */
async function prepare(
  wish: RestoreWish,
  facts: BackupFacts,
  swaps: readonly Swap[],
  deps: RestoreDeps,
  onProgress: OnProgress,
): Promise<string> {
  const { container, spec, backup, mountsOnly } = wish
  const { engine, reader, restic, workDirectory, signal } = deps
  await discard(container, swaps, engine)
  await removeOld(container, swaps)
  const stage = stageOf(container, workDirectory)
  await rm(stage, { recursive: true, force: true })
  await mkdir(stage, { recursive: true, mode: 0o700 })
  const mounts: StageMount[] = []
  for (const { at, staged, isFile } of swaps) {
    await mkdir(dirname(staged), { recursive: true })
    if (isFile) await Promise.all([writeFile(staged, ''), writeFile(join(stage, at), '')])
    else await Promise.all([mkdir(staged), mkdir(join(stage, at))])
    mounts.push({ at, source: staged })
  }
  onProgress(0, `looking for the image ${spec.image}`)
  const imageId = await deps.imageFor(spec.image)
  const restoresLayer = facts.fileSystem !== 'none' && !mountsOnly
  if (facts.fileSystem === 'layer' && restoresLayer && imageId !== facts.image.id)
    throw new FlotillaError(
      'NOT_FOR_THIS_DEVICE',
      `restore ${container}: its file system was saved as changes of the image ${facts.image.id}, and ${spec.image} is ${imageId ?? 'not here'} on this device; bring that image back (the release that had it), or restore volumes and mounts alone (--mounts-only)`,
    )
  const create = async (image: string) => {
    const carried = facts.parts.flatMap(({ kind, source, target }) =>
      kind === 'volume' && isNameless({ volume: source, target }) ? [{ volume: source, target }] : [],
    )
    return createContainer({ name: container, at: `${container}${NEXT}`, spec, image, carried }, deps)
  }
  const restore = (more: readonly StageMount[] = [], exclude: readonly string[] = []) =>
    restic.restore(backup, { directory: stage, mounts: [...mounts, ...more] }, exclude, {
      signal,
      onProgress: (share, text) => onProgress(0.05 + share * 0.9, text),
    })
  if (imageId === undefined && restoresLayer && facts.fileSystem === 'tree') {
    // Nobody has the image: the tree becomes one.
    await restore()
    onProgress(0.95, 'making an image of the restored tree')
    const made = await create(await loadTree(wish, stage, deps))
    await layersOf(container, made, reader)
    return made
  }
  if (imageId === undefined)
    throw new FlotillaError(
      'NOT_FOUND',
      `restore ${container}: the image ${spec.image} is not to be had on this device`,
    )
  const id = await create(imageId)
  if (!restoresLayer) {
    await restore([], [`/${LAYER}`])
    return id
  }
  const layers = await layersOf(container, id, reader)
  await mkdir(join(stage, LAYER))
  await restore([{ at: LAYER, source: layers.upper }])
  if (facts.fileSystem === 'tree') await layTreeOver(layers.upper, layers.lower)
  return id
}

type Layers = NonNullable<Awaited<ReturnType<EngineReader['container']>>['layers']>

async function layersOf(container: string, id: string, reader: EngineReader): Promise<Layers> {
  const { layers } = await reader.container(id)
  if (layers !== undefined) return layers
  throw new FlotillaError(
    'BAD_CONFIG',
    `restore ${container}: the engine keeps file systems in a way that cannot be written`,
  )
}

/** @returns the id of the image that the tree in the staging directory became */
async function loadTree(
  { container, spec, backup }: RestoreWish,
  stage: string,
  { engine, restic, signal }: RestoreDeps,
): Promise<string> {
  const described = shape.object(JSON.parse(await restic.read(backup, `/${IMAGE_FILE}`, signal)), IMAGE_FILE)
  const directory = join(stage, 'image')
  const id = await makeImageOfTree(join(stage, LAYER), directory, withTag(spec.image), described)
  await withArchiveOf(directory, (archive) =>
    engine.loadStream(`restore ${container}: load the image of the restored tree`, archive),
  )
  const loaded = await engine.image(id)
  if (loaded === undefined)
    throw new FlotillaError(
      'VERIFY_FAILED',
      `restore ${container}: the engine does not have the image that was made of the restored tree`,
    )
  return loaded.id
}

/** Puts what was restored in its place. @throws FlotillaError, also when it does not stay up: then it is to go back */
async function tryOut(entry: Switch, deps: SettleDeps): Promise<void> {
  await switchOver(entry, deps.engine)
  await flush(entry.swaps)
  if (entry.runs) await startAndSettle(entry, deps)
}

/** Idempotent: each step looks whether it was done before the power was cut. */
async function switchOver({ container, swaps, old, fresh }: Switch, engine: Engine): Promise<void> {
  const current = old === '' ? undefined : await engine.container(old)
  if (current !== undefined && current.name !== `${container}${PREVIOUS}`) {
    await engine.setRestartPolicy(old, 'no')
    if (isRunning(current)) await engine.stop(old, current.stopSeconds)
    await engine.rename(old, `${container}${PREVIOUS}`)
  }
  for (const { path, staged, before } of swaps) {
    if (!(await isThere(staged))) continue
    if (await isThere(path)) await renameOrSay(path, before)
    await renameOrSay(staged, path)
  }
  if ((await engine.container(fresh))?.name !== container) await engine.rename(fresh, container)
}

/** Everything as it was, as far as it was changed. */
async function switchBack({ container, swaps, old, fresh, policy }: Switch, engine: Engine): Promise<void> {
  if (fresh !== '') await engine.remove(fresh)
  for (const { path, before, staged } of swaps) {
    if (await isThere(before)) {
      await rm(staged, { recursive: true, force: true })
      if (await isThere(path)) await rename(path, staged)
      await rename(before, path)
    }
    await rm(staged, { recursive: true, force: true })
  }
  const previous = old === '' ? undefined : await engine.container(old)
  if (previous === undefined) return
  if (previous.name !== container) await engine.rename(old, container)
  await engine.setRestartPolicy(old, policy)
  // The reconciler starts it again when this fails: it is as wanted, and was not started since.
  await engine.start(old, container).catch((error: unknown) => {
    if (isFlotillaError(error, 'UNREACHABLE')) throw error
  })
}

type Switch = Omit<RestoreEntry, 'phase'>

async function finish(container: string, swaps: readonly Swap[], engine: Engine): Promise<void> {
  await engine.remove(`${container}${PREVIOUS}`)
  for (const { before } of swaps) await rm(before, { recursive: true, force: true })
}

/** What a restore that ended left of the data before it, when it could not be removed then. @throws FlotillaError DISK_FAILED */
async function removeOld(container: string, swaps: readonly Swap[]): Promise<void> {
  for (const { path, before } of swaps) {
    if (!(await isThere(before))) continue
    if (!(await isThere(path)))
      throw new FlotillaError(
        'DISK_FAILED',
        `restore ${container}: ${path} is gone, and ${before} is there; put it back first`,
      )
    await rm(before, { recursive: true, force: true }).catch((cause: unknown) => {
      throw new FlotillaError(
        'DISK_FAILED',
        `restore ${container}: ${before} is in the way and cannot be removed: ${messageOf(cause)}`,
        { cause },
      )
    })
  }
}

async function discard(container: string, swaps: readonly Swap[], engine: Engine): Promise<void> {
  await engine.remove(`${container}${NEXT}`)
  for (const { staged } of swaps) await rm(staged, { recursive: true, force: true })
}

type SettleDeps = Pick<RestoreDeps, 'engine' | 'settleMs' | 'signal'>

/** @throws FlotillaError BAD_CONFIG with its last words when it does not stay up */
async function startAndSettle({ container, fresh }: Switch, { engine, settleMs, signal }: SettleDeps): Promise<void> {
  const before = (await engine.container(fresh))?.restarts ?? 0
  await engine.start(fresh, container)
  for (
    const until = performance.now() + settleMs;
    performance.now() < until;
    await pause(POLL_MS, undefined, { signal })
  ) {
    const found = await engine.container(fresh)
    if (found !== undefined && (isRunning(found) || found.exitCode === 0) && found.restarts === before) continue
    const words = await engine.lastWords(fresh)
    throw new FlotillaError(
      'BAD_CONFIG',
      `restore ${container}: restored, but it does not stay up; what was there is back; it said: ${words}`,
    )
  }
}

async function renameOrSay(from: string, to: string): Promise<void> {
  try {
    await rename(from, to)
  } catch (cause) {
    throw new FlotillaError(
      'DISK_FAILED',
      `restore: put ${from} at ${to}: ${String(cause)}; a mount point cannot be replaced`,
      { cause },
    )
  }
}

async function isThere(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  )
}
