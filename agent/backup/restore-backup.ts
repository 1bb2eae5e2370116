import { existsSync } from 'node:fs'
import { lstat, mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { ContainerSpec } from '../../protocol/core/container-spec.ts'
import { withTag } from '../../protocol/core/image-name.ts'
import { FlotillaError } from '../../protocol/errors.ts'
import { shape } from '../../protocol/shape.ts'
import { createOptions } from '../core/create-options.ts'
import type { Engine } from '../core/engine.ts'
import { isRunning } from '../core/inventory.ts'
import { NEXT, PREVIOUS } from '../core/plan-core.ts'
import { type BackupFacts, FACTS_FILE, IMAGE_FILE, LAYER, parseBackupFacts } from './backup-facts.ts'
import type { EngineReader } from './engine-reader.ts'
import { makeImageOfTree, layTreeOver } from './restore-tree.ts'
import type { OnProgress, Restic, StageMount } from './restic.ts'
import type { RestoreJournal, Swap } from './restore-journal.ts'

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
    const swaps = await planSwaps(container, facts, deps)
    await journal.note({ container, phase: 'prepare', swaps, runs: true })
    try {
      await prepare(wish, facts, swaps, deps, onProgress)
    } catch (error) {
      await discard(container, swaps, engine)
      await journal.clear()
      throw error
    }
    const current = await engine.container(container)
    const runs = spec.startAfterCreate || (current !== undefined && isRunning(current))
    await journal.note({ container, phase: 'switch', swaps, runs })
    try {
      await switchOver(container, swaps, engine)
      if (runs) await startAndSettle(container, deps)
    } catch (error) {
      await switchBack(container, swaps, engine, spec)
      await journal.clear()
      throw error
    }
    await finish(container, swaps, engine)
    await journal.clear()
    onProgress(1, 'done')
  } finally {
    await rm(stageOf(container, deps.workDirectory), { recursive: true, force: true })
    resume()
  }
}

/** What an agent that was killed, or lost its power, left in the middle: prepared is thrown away, switched is finished. */
export async function recoverRestore(
  engine: Engine,
  journal: RestoreJournal,
  workDirectory: string,
): Promise<string | undefined> {
  const entry = await journal.read()
  if (entry === undefined) return undefined
  if (entry.phase === 'prepare') await discard(entry.container, entry.swaps, engine)
  else {
    await switchOver(entry.container, entry.swaps, engine)
    if (entry.runs) await engine.start(entry.container, entry.container)
    await finish(entry.container, entry.swaps, engine)
  }
  await rm(stageOf(entry.container, workDirectory), { recursive: true, force: true })
  await journal.clear()
  return `${entry.container}: ${entry.phase === 'prepare' ? 'an unfinished restore was thrown away' : 'a restore was finished'}`
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

async function prepare(
  { container, spec, backup, mountsOnly }: RestoreWish,
  facts: BackupFacts,
  swaps: readonly Swap[],
  deps: RestoreDeps,
  onProgress: OnProgress,
): Promise<void> {
  const { engine, reader, restic, workDirectory, signal } = deps
  await discard(container, swaps, engine)
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
    const options = createOptions(container, spec, {
      carried: facts.parts
        .filter(({ kind, source }) => kind === 'volume' && /^[0-9a-f]{64}$/.test(source))
        .map(({ source, target }) => ({ volume: source, target })),
      lockDirectory: deps.lockDirectory,
      hasTini: existsSync('/usr/bin/tini'),
    })
    for (const network of spec.hostNetwork ? [] : spec.networks) await engine.requireNetwork(network, {})
    await engine.create(`${container}${NEXT}`, { ...options, Image: image }, container)
    for (const network of spec.hostNetwork ? [] : spec.networks.slice(1))
      await engine.connect(network, `${container}${NEXT}`)
    const { layers } = await reader.container(`${container}${NEXT}`)
    if (layers === undefined && restoresLayer)
      throw new FlotillaError(
        'BAD_CONFIG',
        `restore ${container}: the engine keeps file systems in a way that cannot be written`,
      )
    return layers
  }
  const tree = join(stage, LAYER)
  if (!restoresLayer || facts.fileSystem === 'layer') {
    if (imageId === undefined)
      throw new FlotillaError(
        'NOT_FOUND',
        `restore ${container}: the image ${spec.image} is not to be had on this device`,
      )
    const layers = await create(imageId)
    if (restoresLayer && layers !== undefined) {
      await mkdir(tree)
      mounts.push({ at: LAYER, source: layers.upper })
    }
    await restore(restic, backup, { directory: stage, mounts }, signal, onProgress, !restoresLayer)
    return
  }
  if (imageId !== undefined) {
    const layers = await create(imageId)
    if (layers === undefined) return
    await mkdir(tree)
    await restore(
      restic,
      backup,
      { directory: stage, mounts: [...mounts, { at: LAYER, source: layers.upper }] },
      signal,
      onProgress,
    )
    await layTreeOver(layers.upper, layers.lower)
    return
  }
  // Nobody has the image: the tree becomes one.
  await restore(restic, backup, { directory: stage, mounts }, signal, onProgress)
  onProgress(0.95, 'making an image of the restored tree')
  const described = shape.object(JSON.parse(await restic.read(backup, `/${IMAGE_FILE}`, signal)), IMAGE_FILE)
  const made = await makeImageOfTree(tree, join(stage, 'image'), withTag(spec.image), described)
  await reader.loadDirectory(join(stage, 'image'))
  const loaded = await engine.image(made)
  if (loaded === undefined)
    throw new FlotillaError(
      'VERIFY_FAILED',
      `restore ${container}: the engine does not have the image that was made of the restored tree`,
    )
  await create(loaded.id)
}

async function restore(
  restic: Restic,
  backup: string,
  staging: { readonly directory: string; readonly mounts: readonly StageMount[] },
  signal: AbortSignal,
  onProgress: OnProgress,
  withoutLayer = false,
): Promise<void> {
  await restic.restore(backup, staging, withoutLayer ? [`/${LAYER}`] : [], {
    signal,
    onProgress: (share, text) => onProgress(0.05 + share * 0.9, text),
  })
}

/** Idempotent. */
async function switchOver(container: string, swaps: readonly Swap[], engine: Engine): Promise<void> {
  const next = await engine.container(`${container}${NEXT}`)
  const current = await engine.container(container)
  if (next !== undefined && current !== undefined) {
    await engine.setRestartPolicy(container, 'no')
    if (isRunning(current)) await engine.stop(container, current.stopSeconds)
    await engine.rename(container, `${container}${PREVIOUS}`)
  }
  for (const { path, staged, before } of swaps) {
    if (!(await isThere(staged))) continue // done before the power was cut
    if ((await isThere(path)) && !(await isThere(before))) await renameOrSay(path, before)
    await renameOrSay(staged, path)
  }
  if (next !== undefined) await engine.rename(`${container}${NEXT}`, container)
}

async function switchBack(
  container: string,
  swaps: readonly Swap[],
  engine: Engine,
  spec: ContainerSpec,
): Promise<void> {
  const previous = await engine.container(`${container}${PREVIOUS}`)
  for (const name of [`${container}${NEXT}`, ...(previous === undefined ? [] : [container])]) await engine.remove(name)
  for (const { path, before, staged } of swaps) {
    if (!(await isThere(before))) continue
    await rm(staged, { recursive: true, force: true })
    if (await isThere(path)) await rename(path, staged)
    await rename(before, path)
    await rm(staged, { recursive: true, force: true })
  }
  if (previous === undefined) return
  await engine.rename(`${container}${PREVIOUS}`, container)
  await engine.setRestartPolicy(container, spec.restartPolicy)
  await engine.start(container, container)
}

async function finish(container: string, swaps: readonly Swap[], engine: Engine): Promise<void> {
  await engine.remove(`${container}${PREVIOUS}`)
  for (const { before } of swaps) await rm(before, { recursive: true, force: true })
}

async function discard(container: string, swaps: readonly Swap[], engine: Engine): Promise<void> {
  await engine.remove(`${container}${NEXT}`)
  for (const { staged } of swaps) await rm(staged, { recursive: true, force: true })
}

/** @throws FlotillaError BAD_CONFIG with its last words when it does not stay up */
async function startAndSettle(container: string, { engine, settleMs, signal }: RestoreDeps): Promise<void> {
  await engine.start(container, container)
  for (
    const until = performance.now() + settleMs;
    performance.now() < until;
    await pause(POLL_MS, undefined, { signal })
  ) {
    const found = await engine.container(container)
    if (found !== undefined && (isRunning(found) || found.exitCode === 0) && found.restarts === 0) continue
    const words = await engine.lastWords(container)
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
