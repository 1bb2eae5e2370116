import { FlotillaError } from '../errors.ts'

/**
 * What a restic repository consists of. All but `config` are named by the SHA-256 of what is in them and are never changed; the
 * locks of running programs are left out.
 * @see restic, "References: Repository Layout"
 */
export const FILE_KINDS = ['config', 'keys', 'data', 'index', 'snapshots'] as const
export type FileKind = (typeof FILE_KINDS)[number]
export type RepositoryFile = { readonly kind: FileKind; readonly sha256: string; readonly lengthBytes: number }

/** 100 000 packs of 16 MiB are 1.6 TB. */
const MAX_FILES = 100_000
const MAX_FILE_BYTES = 2 ** 32
/** The longest line: a kind, a hash, a length. */
const LINE_BYTES = 88
export const MAX_LIST_BYTES = MAX_FILES * LINE_BYTES

/** Where a file lies in a repository. */
export function pathOf({ kind, sha256 }: Pick<RepositoryFile, 'kind' | 'sha256'>): string {
  if (kind === 'config') return 'config'
  return kind === 'data' ? `data/${sha256.slice(0, 2)}/${sha256}` : `${kind}/${sha256}`
}

/** One line for each file, `kind sha256 bytes`, sorted: two that list the same files are equal. */
export function encodeList(files: readonly RepositoryFile[]): Uint8Array {
  const lines = files.map(({ kind, sha256, lengthBytes }) => `${kind} ${sha256} ${lengthBytes}\n`)
  return Buffer.from(lines.sort().join(''))
}

/** @throws FlotillaError LENGTH, FORMAT */
export function parseList(bytes: Uint8Array): readonly RepositoryFile[] {
  const what = 'list of a backup repository'
  if (bytes.length > MAX_LIST_BYTES)
    throw new FlotillaError('LENGTH', `${what}: ${bytes.length} bytes, at most ${MAX_LIST_BYTES} are read`)
  const text = Buffer.from(bytes).toString('latin1')
  const lines = text.split('\n')
  if (lines.pop() !== '') throw new FlotillaError('FORMAT', `${what}: its last line does not end`)
  if (lines.length > MAX_FILES) throw new FlotillaError('LENGTH', `${what}: more than ${MAX_FILES} files`)
  let last = ''
  return lines.map((line, at) => {
    const [, kindText, sha256 = '', length] = /^([a-z]+) ([0-9a-f]{64}) (0|[1-9]\d{0,9})$/.exec(line) ?? []
    const kind = FILE_KINDS.find((one) => one === kindText)
    const lengthBytes = Number(length)
    if (kind === undefined || lengthBytes > MAX_FILE_BYTES || line <= last)
      throw new FlotillaError('FORMAT', `${what}: line ${at + 1}: wanted kind, SHA-256 and length, in order, once`)
    last = line
    return { kind, sha256, lengthBytes }
  })
}

export function totalBytes(files: readonly RepositoryFile[]): number {
  return files.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)
}
