import { isFlotillaError, messageOf } from '../../protocol/errors.ts'
import type { EventLog } from '../control/event-log.ts'
import type { Engine } from '../core/engine.ts'
import { EngineReader } from './engine-reader.ts'
import type { OwnRepository } from './own-repository.ts'
import { recoverRestore } from './restore-backup.ts'
import type { RestoreJournal } from './restore-journal.ts'
import type { StillnessJournal } from './stillness-journal.ts'

export type RecoverDeps = {
  readonly engine: Engine
  readonly engineSocket: string
  readonly own: OwnRepository
  readonly still: StillnessJournal
  readonly restores: RestoreJournal
  readonly log: EventLog
  readonly signal: AbortSignal
}

/**
 * Puts in order what an agent that was killed left in the middle: a container that was kept still goes on, a restore is finished or
 * thrown away. Call while no job works on a container.
 * @throws FlotillaError UNREACHABLE, the signal's reason; anything else is told of, and keeps nothing else back
 */
export async function recoverInterrupted({
  engine,
  engineSocket,
  own,
  still,
  restores,
  log,
  signal,
}: RecoverDeps): Promise<void> {
  const attempt = async (what: string, work: () => Promise<void>) => {
    try {
      await work()
    } catch (error) {
      if (signal.aborted || isFlotillaError(error, 'UNREACHABLE')) throw error
      log.add('error', 'recovery-failed', { what, error: messageOf(error) })
    }
  }
  await attempt('a backup', async () => {
    const stillness = await still.read()
    if (stillness === undefined) return
    const { container, how } = stillness
    log.add('warn', 'backup-interrupted', { container, how })
    if (how === 'pause') await (await EngineReader.open(engineSocket)).unpause(container)
    // One that cannot be started is the reconciler's affair.
    else if ((await engine.container(container)) !== undefined)
      await attempt(`start ${container}`, () => engine.start(container, container))
    await still.clear()
  })
  await attempt('a restore', async () => {
    const restored = await recoverRestore(engine, restores, own.workDirectory, signal)
    if (restored !== undefined) log.add('warn', 'restore-interrupted', { what: restored })
  })
}
