/** An account as it should be. */
export type Account = {
  readonly name: string
  readonly uid: number
  readonly home: string
  /** The field of `/etc/shadow`: `*` without a password, `!` locked, empty for an empty password, a hash; undefined keeps what is there. */
  readonly password: string | undefined
}

/** The texts of `/etc/passwd`, `/etc/group` and `/etc/shadow`. */
export type AccountFiles = { readonly passwd: string; readonly group: string; readonly shadow: string }

/**
 * Puts accounts into the files, and takes those out that are not wanted any more. An account is ours when its shell is.
 * Pure. No account gets a group besides its own: whoever is in `docker` is root.
 * @returns the new texts, and the names that an account or a group has which is not ours: those are left alone
 * @see passwd(5), shadow(5)
 */
export function planAccounts(
  files: AccountFiles,
  wishes: readonly Account[],
  shell: string,
): { readonly files: AccountFiles; readonly taken: readonly string[] } {
  const passwd = linesOf(files.passwd)
  const ours = new Set(passwd.filter((line) => fieldOf(line, 6) === shell).map((line) => fieldOf(line, 0)))
  // A group of that name counts too: `docker` and `video` are the host's.
  const names = [...passwd, ...linesOf(files.group)].map((line) => fieldOf(line, 0))
  const taken = new Set(names.filter((name) => !ours.has(name)))
  const accounts = wishes.filter(({ name }) => !taken.has(name))
  const wanted = new Set(accounts.map(({ name }) => name))
  const others = (text: string) =>
    linesOf(text).filter((line) => !ours.has(fieldOf(line, 0)) && !wanted.has(fieldOf(line, 0)))
  const before = new Map(linesOf(files.shadow).map((line) => [fieldOf(line, 0), fieldOf(line, 1)]))
  const planned = {
    passwd: text([
      ...others(files.passwd),
      ...accounts.map(({ name, uid, home }) => `${name}:x:${uid}:${uid}:container:${home}:${shell}`),
    ]),
    group: text([...others(files.group), ...accounts.map(({ name, uid }) => `${name}:x:${uid}:`)]),
    shadow: text([
      ...others(files.shadow),
      ...accounts.map(({ name, password }) => `${name}:${password ?? before.get(name) ?? '*'}:19000:0:99999:7:::`),
    ]),
  }
  return { files: planned, taken: wishes.map(({ name }) => name).filter((name) => taken.has(name)) }
}

function linesOf(content: string): readonly string[] {
  return content.split('\n').filter((line) => line !== '')
}

function fieldOf(line: string, at: number): string {
  return line.split(':')[at] ?? ''
}

function text(lines: readonly string[]): string {
  return lines.map((line) => `${line}\n`).join('')
}
