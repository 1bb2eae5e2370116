import { readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'
import { type Expression, parseExpression } from './kconfig-expression.ts'

/** What Kconfig files say of a symbol. A symbol may be defined in several places; any of them may let it be set. */
export type SymbolDefinition = {
  readonly name: string
  readonly file: string
  readonly line: number
  /** All of these must hold: its own `depends on` and those of the menus, ifs and choice around it. */
  readonly conditions: readonly Expression[]
  /** The choice it is a member of: a number that is unique in the tree. */
  readonly choice: number | undefined
  /** A person may set it; others are set by `select` and defaults alone. */
  readonly hasPrompt: boolean
}

export type KconfigTree = {
  readonly symbols: ReadonlyMap<string, readonly SymbolDefinition[]>
  /** Symbols of `Config.in.legacy`: setting one stops the build. */
  readonly legacy: ReadonlySet<string>
}

const MAX_DEPTH = 40
/** Words that end the entry before them. */
const ENTRIES = [
  'config',
  'menuconfig',
  'menu',
  'choice',
  'if',
  'endmenu',
  'endchoice',
  'endif',
  'comment',
  'source',
  'mainmenu',
]

/**
 * Reads the Kconfig files of a program from `entry` on, following `source`.
 * @param variables - what `$NAME` stands for in a path, such as BR2_BASE_DIR
 * @throws FlotillaError BAD_INPUT when a file that is sourced cannot be read
 */
export function readKconfigTree(entry: string, variables: Readonly<Record<string, string>>): KconfigTree {
  const reader = new TreeReader(dirname(resolve(entry)), variables)
  reader.read(resolve(entry), [], 0)
  return { symbols: reader.symbols, legacy: reader.legacy }
}

type Block = {
  readonly kind: 'if' | 'menu' | 'choice'
  readonly conditions: Expression[]
  readonly choice: number | undefined
}
type Open = { -readonly [Key in keyof SymbolDefinition]: SymbolDefinition[Key] } & { conditions: Expression[] }

class TreeReader {
  readonly symbols = new Map<string, SymbolDefinition[]>()
  readonly legacy = new Set<string>()
  readonly #root: string
  readonly #variables: Readonly<Record<string, string>>
  #choices = 0

  constructor(root: string, variables: Readonly<Record<string, string>>) {
    this.#root = root
    this.#variables = variables
  }

  read(file: string, outer: readonly Block[], depth: number): void {
    if (depth > MAX_DEPTH) throw new FlotillaError('BAD_INPUT', `read ${file}: sourced ${depth} deep`)
    const blocks: Block[] = []
    let open: Open | undefined
    /** Of the menu or choice that was just opened. */
    let block: Block | undefined
    let inHelp = false
    for (const [at, raw] of readLines(file).entries()) {
      const line = raw.trim()
      // Help goes on as long as it is indented; words in it look like entries.
      if (inHelp && (line === '' || /^\s/.test(raw))) continue
      inHelp = /^(---)?help(---)?$/.test(line)
      const [word = '', rest = ''] = splitWord(line)
      if (ENTRIES.includes(word)) open = block = undefined
      switch (word) {
        case 'config':
        case 'menuconfig':
          open = this.#define(rest.trim(), file, at + 1, [...outer, ...blocks])
          break
        case 'menu':
          block = { kind: 'menu', conditions: [], choice: undefined }
          blocks.push(block)
          break
        case 'choice':
          this.#choices += 1
          block = { kind: 'choice', conditions: [], choice: this.#choices }
          blocks.push(block)
          break
        case 'if':
          blocks.push({ kind: 'if', conditions: conditionsIn(rest), choice: undefined })
          break
        case 'endmenu':
        case 'endchoice':
        case 'endif':
          blocks.pop()
          break
        case 'source':
          this.#source(rest, file, [...outer, ...blocks], depth)
          break
        case 'depends':
          ;(open ?? block)?.conditions.push(...conditionsIn(rest.replace(/^\s*on\s/, '')))
          break
        case 'bool':
        case 'string':
        case 'int':
        case 'hex':
        case 'tristate':
        case 'prompt':
          if (open !== undefined && /^\s*["']/.test(rest)) open.hasPrompt = true
          break
      }
    }
  }

  #define(name: string, file: string, line: number, blocks: readonly Block[]): Open {
    const definition: Open = {
      name,
      file,
      line,
      // Those of a menu may come after it was opened, never after its first entry.
      conditions: blocks.flatMap((block) => block.conditions),
      choice: blocks.findLast((block) => block.kind === 'choice')?.choice,
      hasPrompt: false,
    }
    this.symbols.set(name, [...(this.symbols.get(name) ?? []), definition])
    if (file.endsWith('Config.in.legacy')) this.legacy.add(name)
    return definition
  }

  #source(rest: string, from: string, blocks: readonly Block[], depth: number): void {
    const path = rest
      .trim()
      .replaceAll(/^["']|["']$/g, '')
      .replaceAll(/\$\(?([A-Z0-9_]+)\)?/g, (_, name: string) => this.#variables[name] ?? `$${name}`)
    if (path.includes('$'))
      throw new FlotillaError('BAD_INPUT', `${from}: source "${path}" names a variable that is not known here`)
    this.read(resolve(this.#root, path), blocks, depth + 1)
  }
}

function readLines(file: string): readonly string[] {
  try {
    let text = readFileSync(file, 'utf8')
    // Joined lines keep their number: the line feed moves behind what it cut in two.
    while (text.includes('\\\n')) text = text.replace(/\\\n([^\n]*)/g, ' $1\n')
    return text.split('\n')
  } catch (cause) {
    throw new FlotillaError('BAD_INPUT', `read Kconfig ${file}: ${messageOf(cause)}`, { cause })
  }
}

function splitWord(line: string): readonly string[] {
  return /^([a-z]+)(?:\s+(.*)|(["'].*))?$/.exec(line)?.slice(1, 3) ?? []
}

function conditionsIn(text: string): Expression[] {
  const expression = parseExpression(text)
  return expression === undefined ? [] : [expression]
}

/** The Kconfig tree of a Buildroot with BR2_EXTERNAL trees, after `make` has written the files that join them. */
export function readBuildrootTree(
  buildroot: string,
  output: string,
  externals: Readonly<Record<string, string>>,
): KconfigTree {
  const variables: Record<string, string> = { BR2_BASE_DIR: output }
  for (const [name, path] of Object.entries(externals)) variables[`BR2_EXTERNAL_${name}_PATH`] = path
  return readKconfigTree(join(buildroot, 'Config.in'), variables)
}
