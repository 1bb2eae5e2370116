import { spawn } from 'node:child_process'
import { chmod, chown, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { UserSpec } from '../../protocol/core/skiff-core.ts'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { parseJson, shape } from '../../protocol/shape.ts'
import type { Disk } from '../store/disk.ts'
import { GenerationFile } from '../store/generation-file.ts'
import { type Account, type AccountFiles, planAccounts } from './plan-accounts.ts'

const ETC = '/etc'
const ROOT_KEYS = '/root/.ssh/authorized_keys'
/** Above what distributions and SkiffOS give to people. */
const FIRST_UID = 2_000
const MAX_UIDS = 1_000
const MAX_BYTES = 65_536

/**
 * The host accounts that `users:` asks for. Root is RAM, so they are made at every boot, with the same number as before.
 * Homes lie on persist and belong to root: what an account may log in with is the file's word, not its own.
 */
export class Accounts {
  readonly #home: string
  readonly #shell: string
  readonly #file: GenerationFile
  readonly #uids = new Map<string, number>()
  /** Passwords as the file says them, to see whether one changed: a new salt at every look would be a new hash. */
  readonly #passwords = new Map<string, string>()

  private constructor(home: string, shell: string, file: GenerationFile) {
    this.#home = home
    this.#shell = shell
    this.#file = file
  }

  /** @param home - directory of the homes, on persist */
  static async open(persist: Disk, home: string, shell: string): Promise<Accounts> {
    const accounts = new Accounts(home, shell, new GenerationFile(persist, 'core/uids', MAX_BYTES))
    const bytes = await accounts.#file.read()
    if (bytes === undefined) return accounts
    const json = shape.object(parseJson(bytes, 'core/uids', MAX_BYTES), 'core/uids')
    for (const [name, uid] of Object.entries(json))
      accounts.#uids.set(name, shape.integer(uid, `core/uids: ${name}`, FIRST_UID, FIRST_UID + MAX_UIDS))
    return accounts
  }

  uid(name: string): number | undefined {
    return this.#uids.get(name)
  }

  /**
   * Brings the host's accounts in line.
   * @returns why an account could not be made, by name; the others were
   * @throws FlotillaError LIMIT, DISK_FAILED
   */
  async follow(users: ReadonlyMap<string, UserSpec>): Promise<ReadonlyMap<string, string>> {
    const files = await readFiles()
    await this.#giveUids([...users.keys()], files.passwd)
    const accounts = [...users].map(
      ([name, user]): Account => ({
        name,
        uid: this.#uids.get(name) ?? FIRST_UID,
        home: join(this.#home, name),
        password: this.#fieldOf(name, user),
      }),
    )
    const { files: planned, taken } = planAccounts(files, accounts, this.#shell)
    const problems = new Map(
      taken.map((name) => [
        name,
        `users.${name}: this host has an account of that name that Flotilla did not make; choose another name`,
      ]),
    )
    for (const [name, user] of users) if (!problems.has(name)) await this.#writeKeys(name, user)
    for (const name of ['shadow', 'group', 'passwd'] as const)
      if (planned[name] !== files[name]) await replaceFile(join(ETC, name), planned[name])
    for (const [name, { auth }] of users) {
      if (problems.has(name)) continue
      await this.#setPassword(name, auth).catch((error: unknown) => problems.set(name, messageOf(error)))
    }
    return problems
  }

  /** Numbers of the host's own accounts are not given again. */
  async #giveUids(names: readonly string[], passwd: string): Promise<void> {
    const used = new Set(this.#uids.values())
    for (const line of passwd.split('\n')) used.add(Number(line.split(':')[2]))
    const fresh = names.filter((name) => !this.#uids.has(name))
    for (const name of fresh) {
      let uid = FIRST_UID
      while (used.has(uid)) uid += 1
      if (uid >= FIRST_UID + MAX_UIDS)
        throw new FlotillaError('LIMIT', `users.${name}: ${MAX_UIDS} accounts were given a number already`)
      used.add(uid)
      this.#uids.set(name, uid)
    }
    // Before anything belongs to that number.
    if (fresh.length > 0) await this.#file.write(Buffer.from(JSON.stringify(Object.fromEntries(this.#uids))))
  }

  /** Undefined: it was set, and stays. */
  #fieldOf(name: string, { auth }: UserSpec): string | undefined {
    if (auth.locked) return '!'
    if (auth.password.startsWith('$')) return auth.password // a hash already
    if (auth.password !== '') return this.#passwords.get(name) === auth.password ? undefined : '*'
    return auth.allowEmptyPassword ? '' : '*'
  }

  async #setPassword(name: string, { password, locked }: UserSpec['auth']): Promise<void> {
    if (locked || password === '' || password.startsWith('$')) return void this.#passwords.delete(name)
    if (this.#passwords.get(name) === password) return
    await hashPassword(name, password)
    this.#passwords.set(name, password)
  }

  async #writeKeys(name: string, { auth }: UserSpec): Promise<void> {
    const directory = join(this.#home, name, '.ssh')
    const rootKeys = auth.copyRootKeys ? await readFile(ROOT_KEYS, 'utf8').catch(() => '') : ''
    const keys = auth.locked ? [] : [...rootKeys.split('\n'), ...auth.sshKeys].map((key) => key.trim())
    try {
      await mkdir(directory, { recursive: true, mode: 0o755 })
      const path = join(directory, 'authorized_keys')
      const text = keys
        .filter((key) => key !== '' && !key.startsWith('#'))
        .map((key) => `${restricted(key)}\n`)
        .join('')
      if ((await readFile(path, 'utf8').catch(() => '')) === text) return
      await writeFile(`${path}.new`, text, { mode: 0o644 })
      await rename(`${path}.new`, path)
    } catch (cause) {
      throw new FlotillaError('DISK_FAILED', `users.${name}: write its keys: ${messageOf(cause)}`, { cause })
    }
  }
}

/** No forwarding of ports or sockets: it would end at the host, not in the container. */
function restricted(key: string): string {
  const options = 'restrict,pty,agent-forwarding'
  return /^(ssh-|ecdsa-|sk-)/.test(key) ? `${options} ${key}` : `${options},${key}`
}

async function readFiles(): Promise<AccountFiles> {
  // What cannot be read is not empty: the file would be replaced by one without root.
  const read = async (name: string, mayBeMissing: boolean) => {
    try {
      return await readFile(join(ETC, name), 'utf8')
    } catch (cause) {
      if (mayBeMissing && (cause as NodeJS.ErrnoException).code === 'ENOENT') return ''
      throw new FlotillaError('DISK_FAILED', `read ${join(ETC, name)}: ${messageOf(cause)}`, { cause })
    }
  }
  const passwd = await read('passwd', false)
  if (!passwd.includes(':0:')) throw new FlotillaError('DISK_FAILED', `read ${join(ETC, 'passwd')}: root is not in it`)
  return { passwd, group: await read('group', true), shadow: await read('shadow', true) }
}

/** A new file beside the old one, with its owner and mode: whoever looks meanwhile sees one or the other. */
async function replaceFile(path: string, text: string): Promise<void> {
  const fresh = `${path}.flotilla`
  try {
    const before = await stat(path).catch(() => ({ mode: path.endsWith('shadow') ? 0o600 : 0o644, uid: 0, gid: 0 }))
    await rm(fresh, { force: true })
    await writeFile(fresh, text, { mode: 0o600 })
    await chown(fresh, before.uid, before.gid)
    await chmod(fresh, before.mode & 0o7777)
    await rename(fresh, path)
  } catch (cause) {
    throw new FlotillaError('DISK_FAILED', `write ${path}: ${messageOf(cause)}`, { cause })
  }
}

/** By the system's own program (shadow's or BusyBox's), which has crypt(3). The password goes through a pipe, never an argument. */
function hashPassword(name: string, password: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (why: string) =>
      reject(new FlotillaError('UNEXPECTED', `users.${name}: set its password with chpasswd: ${why}`))
    const child = spawn('chpasswd', ['-c', 'SHA512'], { stdio: ['pipe', 'ignore', 'pipe'], timeout: 30_000 })
    let said = ''
    child.stderr.on('data', (part: Buffer) => {
      said = (said + part.toString()).slice(-200)
    })
    child.stdin.on('error', () => {})
    child.on('error', (error) => fail(error.message))
    child.on('close', (code) => (code === 0 ? resolve() : fail(said.trim() || `exit ${code}`)))
    child.stdin.end(`${name}:${password}\n`)
  })
}
