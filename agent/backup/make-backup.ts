import { statSync } from 'node:fs'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { BackupSpec } from '../../protocol/core/backup-spec.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import type { EventLog } from '../control/event-log.ts'
import type { Engine } from '../core/engine.ts'
import { type BackupFacts, encodeBackupFacts, FACTS_FILE, IMAGE_FILE, INSPECT_FILE, LAYER } from './backup-facts.ts'
import type { EngineReader, SeenContainer } from './engine-reader.ts'
import { type CapturePlan, planCapture } from './plan-capture.ts'
import type { OnProgress, Restic, Staging } from './restic.ts'
import type { StillnessJournal } from './stillness-journal.ts'

export type MakeBackupDeps = {
  readonly engine: Engine
  readonly reader: EngineReader
  readonly restic: Restic
  /** For staging directories, on persist. */
  readonly workDirectory: string
  readonly dataDirectory: string
  readonly device: string
  /** Images that a signed release has: a replacement gets them from there. */
  readonly signedImages: () => ReadonlySet<string>
  readonly coreFile: string
  readonly journal: StillnessJournal
  /** Keeps the reconciler from starting what is stopped for the backup; the answer ends it. */
  readonly suspend: (container: string, why: string) => Promise<() => void>
  readonly time: Date
  readonly log: EventLog
  readonly signal: AbortSignal
}

export type MadeBackup = {
  readonly id: string
  readonly addedBytes: number
  readonly totalBytes: number
  /** What could not be read; empty when all was. */
  readonly unread: string
  readonly stillMs: number
}

/** Marks backups of a container, and what is only there to make the next one short. */
export const nameTag = (container: string) => `container=${container}`
export const WARM_TAG = 'unfinished'

/**
 * Makes one backup of a container. What has to be still is read twice: first as it runs, then again, paused or stopped, which
 * takes as long as what changed in between.
 * @throws FlotillaError NOT_FOUND, BAD_CONFIG, NOT_ENOUGH_SPACE, UNREACHABLE; the container goes on in every case
 */
export async function makeBackup(
  container: string,
  spec: BackupSpec,
  deps: MakeBackupDeps,
  onProgress: OnProgress,
): Promise<MadeBackup> {
  const { reader, restic, signal } = deps
  const seen = await reader.container(container)
  const stage = join(deps.workDirectory, 'stage', container)
  const plan = planCapture(
    { container, spec, mounts: seen.mounts, dataDirectory: deps.dataDirectory, isFile, isDirectory },
    stage,
  )
  const staging = await prepareStaging(container, spec, seen, plan, stage, deps)
  const isRunning = seen.status === 'running'
  const backup = (tags: readonly string[], told: OnProgress) =>
    restic.backup(
      staging,
      { host: deps.device, tags, time: deps.time, exclude: plan.exclude },
      { signal, onProgress: told },
    )
  try {
    if (spec.before !== undefined && isRunning)
      await reader.exec(container, spec.before, `back up ${container}: run its command before`)
    try {
      if (!isRunning || spec.consistency === 'none')
        return { ...(await backup([nameTag(container)], onProgress)), stillMs: 0 }
      const warm = await backup([WARM_TAG], (share, text) => onProgress(share * 0.9, text))
      try {
        const { made, stillMs } = await keptStill(container, spec.consistency, deps, () =>
          backup([nameTag(container)], (share, text) => onProgress(0.9 + share / 10, text)),
        )
        return { ...made, addedBytes: warm.addedBytes + made.addedBytes, stillMs }
      } finally {
        await restic
          .run(['forget', warm.id], { signal })
          .catch((error: unknown) =>
            deps.log.add('warn', 'backup-left-over', { container, id: warm.id, error: messageOf(error) }),
          )
      }
    } finally {
      if (spec.after !== undefined && isRunning)
        await reader.exec(container, spec.after, `back up ${container}: run its command after`)
    }
  } finally {
    await rm(stage, { recursive: true, force: true })
  }
}

/** @returns what `work` gave, and for how long the container was still */
async function keptStill<T>(
  container: string,
  how: 'pause' | 'stop',
  { engine, reader, journal, suspend }: MakeBackupDeps,
  work: () => Promise<T>,
): Promise<{ readonly made: T; readonly stillMs: number }> {
  const resume = await suspend(container, 'it is being backed up')
  const startedMs = performance.now()
  try {
    await journal.note({ container, how })
    if (how === 'pause') await reader.pause(container)
    else await engine.stop(container, (await engine.container(container))?.stopSeconds ?? 10)
    const made = await work()
    return { made, stillMs: Math.round(performance.now() - startedMs) }
  } finally {
    try {
      if (how === 'pause') await reader.unpause(container)
      else await engine.start(container, container)
      await journal.clear()
    } finally {
      resume()
    }
  }
}

/** Makes the directory that restic sees: the facts in it, and empty places for what is mounted there while it runs. */
async function prepareStaging(
  container: string,
  spec: BackupSpec,
  seen: SeenContainer,
  { parts }: CapturePlan,
  stage: string,
  { reader, device, coreFile, signedImages }: MakeBackupDeps,
): Promise<Staging> {
  await rm(stage, { recursive: true, force: true })
  await mkdir(stage, { recursive: true, mode: 0o700 })
  const fileSystem = fileSystemOf(container, spec, seen, signedImages)
  const facts: BackupFacts = {
    format: 1,
    container,
    device,
    fileSystem,
    image: { id: seen.imageId, name: seen.imageName },
    parts: parts.map(({ at, kind, source, target, isFile: one }) => ({ at, kind, source, target, isFile: one })),
    consistency: spec.consistency,
    coreFile,
  }
  await writeFile(join(stage, FACTS_FILE), encodeBackupFacts(facts))
  await writeFile(join(stage, INSPECT_FILE), seen.inspect)
  await writeFile(join(stage, IMAGE_FILE), await reader.image(seen.imageId))
  const mounts = parts.map(({ at, path }) => ({ at, source: path as string | readonly string[] }))
  if (fileSystem !== 'none' && seen.layers !== undefined) {
    const { upper, lower } = seen.layers
    mounts.push({ at: LAYER, source: fileSystem === 'layer' ? upper : [upper, ...lower] })
  }
  for (const { at, source } of mounts)
    if (typeof source === 'string' && isFile(source)) await writeFile(join(stage, at), '')
    else await mkdir(join(stage, at))
  return { directory: stage, mounts }
}

function fileSystemOf(
  container: string,
  spec: BackupSpec,
  { layers, driver, imageId }: SeenContainer,
  signedImages: () => ReadonlySet<string>,
): BackupFacts['fileSystem'] {
  if (!spec.fileSystem) return 'none'
  if (layers === undefined)
    throw new FlotillaError(
      'BAD_CONFIG',
      `back up ${container}: the engine keeps file systems with ${driver}, which cannot be read; use overlay2, or set containers.${container}.backup.fileSystem: false`,
    )
  return signedImages().has(imageId) ? 'layer' : 'tree'
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() === true
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true
}
