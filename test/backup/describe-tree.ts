import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'

/**
 * Every file of a tree with all that a restore must bring back: kind, mode, owner, link target, hard links, device, extended
 * attributes, time, content. Two trees are equal when these lines are.
 * @param skipped - paths below the tree that do not count
 */
export function describeTree(root: string, skipped: readonly string[] = []): readonly string[] {
  const lines: string[] = []
  const inodes = new Map<number, string>()
  const attributes = attributesOf(root)
  const visit = (path: string) => {
    if (skipped.includes(path)) return
    const info = lstatSync(join(root, path))
    const facts = [
      path,
      info.mode.toString(8),
      `${info.uid}:${info.gid}`,
      info.isFile() || info.isSymbolicLink() ? Math.floor(info.mtimeMs) : '',
      info.isSymbolicLink() ? `-> ${readlinkSync(join(root, path))}` : '',
      info.isCharacterDevice() || info.isBlockDevice() ? `device ${info.rdev}` : '',
      info.isFile()
        ? createHash('sha256')
            .update(readFileSync(join(root, path)))
            .digest('hex')
        : '',
      attributes.get(path) ?? '',
    ]
    if (info.isFile() && info.nlink > 1) {
      facts.push(`= ${inodes.get(info.ino) ?? path}`)
      if (!inodes.has(info.ino)) inodes.set(info.ino, path)
    }
    lines.push(facts.join(' '))
    if (info.isDirectory())
      for (const name of readdirSync(join(root, path)).sort()) visit(path === '.' ? name : `${path}/${name}`)
  }
  visit('.')
  return lines
}

function attributesOf(root: string): ReadonlyMap<string, string> {
  const dump = execFileSync(
    'getfattr',
    ['--recursive', '--physical', '--no-dereference', '--dump', '--encoding=hex', '-m', '-', '.'],
    {
      cwd: root,
      maxBuffer: 64 * 2 ** 20,
      stdio: ['ignore', 'pipe', 'ignore'],
    },
  ).toString()
  const found = new Map<string, string>()
  for (const block of dump.split('\n\n')) {
    const [name = '', ...lines] = block.trim().split('\n')
    // What overlayfs notes for itself (which inode a copy came from) is not the container's.
    const told = lines.filter((line) => !/^trusted\.overlay\.(origin|impure|nlink|uuid)/.test(line))
    if (told.length > 0) found.set(name.replace('# file: ', ''), told.sort().join(' '))
  }
  return found
}
