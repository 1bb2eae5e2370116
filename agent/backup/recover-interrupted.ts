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
}

/** An engine answers again: a container that was kept still goes on, a restore is finished or thrown away. Once is enough. */
export async function recoverInterrupted({
  engine,
  engineSocket,
  own,
  still,
  restores,
  log,
}: RecoverDeps): Promise<void> {
  const stillness = await still.read()
  if (stillness !== undefined) {
    const { container, how } = stillness
    if (how === 'pause') await (await EngineReader.open(engineSocket)).unpause(container)
    else if ((await engine.container(container)) !== undefined) await engine.start(container, container)
    log.add('warn', 'backup-interrupted', { container, how })
    await still.clear()
  }
  const restored = await recoverRestore(engine, restores, own.workDirectory)
  if (restored !== undefined) log.add('warn', 'restore-interrupted', { what: restored })
}
