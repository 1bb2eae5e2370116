import { join } from 'node:path'
import type { UserSpec } from '../../protocol/core/skiff-core.ts'
import { messageOf } from '../../protocol/errors.ts'
import type { EventLog } from '../control/event-log.ts'
import type { Disk } from '../store/disk.ts'
import { Accounts } from './accounts.ts'
import type { LoginServer } from './login-server.ts'

export type UsersDeps = {
  readonly persist: Disk
  /** `/mnt/persist/skiff`; homes lie in `home/`. */
  readonly dataDirectory: string
  /** The login shell of the accounts; undefined makes no accounts. */
  readonly loginShell: string | undefined
  readonly log: EventLog
}

/** An account as `flotilla core status` shows it. */
export type UserStatus = {
  readonly name: string
  readonly container: string
  /** Why nobody can log in with it; empty when one can. */
  readonly problem: string
}

/** Accounts and their sockets, as the file says. What keeps one back is in its status, and keeps no container back. */
export async function openUsers({ persist, dataDirectory, loginShell, log }: UsersDeps, logins: LoginServer) {
  let told = ''
  let status: readonly UserStatus[] = []
  const accounts =
    loginShell === undefined ? undefined : await Accounts.open(persist, join(dataDirectory, 'home'), loginShell)
  const problemsOf = async (users: ReadonlyMap<string, UserSpec>): Promise<(name: string) => string> => {
    if (users.size > 0 && accounts === undefined) return () => 'accounts: false in agent.yaml'
    if (users.size > 0 && process.getuid?.() !== 0) return () => 'accounts are made by root only'
    if (accounts === undefined || process.getuid?.() !== 0) return () => ''
    try {
      const problems = await accounts.follow(users)
      await logins.follow(users, (name) => (problems.has(name) ? undefined : accounts.uid(name)))
      return (name) => problems.get(name) ?? ''
    } catch (error) {
      return () => messageOf(error)
    }
  }
  return {
    status: () => status,
    follow: async (users: ReadonlyMap<string, UserSpec>) => {
      const problemOf = await problemsOf(users)
      status = [...users].map(([name, { container }]) => ({ name, container, problem: problemOf(name) }))
      const problems = [...new Set(status.map(({ problem }) => problem).filter(Boolean))].join('; ')
      if (problems !== told && problems !== '') log.add('error', 'users-failed', { error: problems })
      told = problems
    },
  }
}
