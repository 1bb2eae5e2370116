import { isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseDocument, type Scalar, type YAMLMap } from 'yaml'
import { FlotillaError } from '../errors.ts'

/** A value in a YAML file, with where it stands. `undefined` stands for a key that is not there, or has no value. */
export type YamlValue = { readonly node: Node; readonly path: string } | undefined

/** A file with more is not written by a person; each costs the reading of what it stands for. */
const MAX_ALIASES = 1_000
const MAX_WARNINGS = 100
/** YAML 1.1's merge key, which people use with anchors. */
const MERGE = '<<'

type Entry = { readonly key: YamlValue; readonly value: YamlValue }

/**
 * Reads a YAML file key by key; whatever is wrong is said with file, line and column. What may be a slip in somebody else's
 * file (an unknown key) is a warning there.
 */
export class YamlReader {
  readonly warnings: string[] = []
  readonly #file: string
  readonly #lenient: boolean
  readonly #lines = new LineCounter()
  readonly #text: string
  readonly #resolveAlias: (node: Node) => Node | undefined
  #aliases = 0
  readonly root: YamlValue

  /**
   * @param lenient - the file is SkiffOS's or its user's: unknown keys are warned of
   * @throws FlotillaError BAD_CONFIG for what is no YAML, or longer than `maxLength` characters
   */
  constructor(text: string, file: string, lenient: boolean, maxLength: number) {
    this.#file = file
    this.#lenient = lenient
    this.#text = text
    if (text.length > maxLength)
      throw new FlotillaError('BAD_CONFIG', `${file}: ${text.length} characters, at most ${maxLength} are read`)
    const document = parseDocument(text, { lineCounter: this.#lines, uniqueKeys: false, logLevel: 'error' })
    const problem = document.errors[0]
    if (problem !== undefined) throw new FlotillaError('BAD_CONFIG', `${file}: ${problem.message}`)
    this.#resolveAlias = (node) => (isAlias(node) ? node.resolve(document) : node)
    this.root = document.contents === null ? undefined : { node: document.contents, path: '' }
  }

  /** @throws FlotillaError BAD_CONFIG, always */
  fail(value: YamlValue, words: string): never {
    const offset = value?.node.range?.[0]
    const { line } = offset === undefined ? { line: 0 } : this.#lines.linePos(offset)
    const excerpt = (this.#text.split('\n')[line - 1] ?? '').trim().slice(0, 80)
    throw new FlotillaError('BAD_CONFIG', `${this.#where(value)}: ${words}${excerpt === '' ? '' : ` (${excerpt})`}`)
  }

  #where(value: YamlValue): string {
    const offset = value?.node.range?.[0]
    if (offset === undefined) return this.#file
    const { line, col } = this.#lines.linePos(offset)
    return `${this.#file}:${line}:${col}`
  }

  #warn(words: string): void {
    if (this.warnings.length < MAX_WARNINGS) this.warnings.push(words)
  }

  /** What an alias stands for. One that stands for nothing must not read as a key that is not there. */
  #resolve(node: Node, path: string): Node {
    if (!isAlias(node)) return node
    this.#aliases += 1
    if (this.#aliases > MAX_ALIASES) this.fail({ node, path }, `${path}: more than ${MAX_ALIASES} aliases`)
    return this.#resolveAlias(node) ?? this.fail({ node, path }, `${path}: *${node.source} stands for nothing`)
  }

  /**
   * A mapping whose keys are known.
   * @returns gives the value of each
   */
  keys<const Key extends string>(value: YamlValue, known: readonly Key[]): (key: Key) => YamlValue {
    const found = this.entries(value)
    for (const [name, entry] of found) {
      if (known.some((key) => key === name)) continue
      if (!this.#lenient) this.fail(entry.key, `no such key: ${name} (known: ${known.join(', ')})`)
      this.#warn(`${this.#where(entry.key)}: no such key: ${name}; it is ignored`)
    }
    return (key) => found.get(key)?.value
  }

  /**
   * A mapping whose keys are names that the file chooses, in order. A key that is there twice must have one value; what `<<`
   * merges in is overridden by the mapping's own keys.
   */
  entries(value: YamlValue): ReadonlyMap<string, Entry> {
    const found = new Map<string, Entry>()
    const merged: YamlValue[] = []
    for (const pair of this.#map(value)?.items ?? []) {
      const keyNode = pair.key as Node | null
      if (!isScalar(keyNode)) this.fail(value, `${value?.path || 'the file'}: a key must be a word`)
      const name = asWritten(keyNode)
      const path = value === undefined || value.path === '' ? name : `${value.path}.${name}`
      const entry = { key: { node: keyNode, path }, value: this.#valueOf(pair.value as Node | null, path) }
      if (name === MERGE) merged.push(...(this.isList(entry.value) ? this.list(entry.value) : [entry.value]))
      else this.#add(found, name, entry)
    }
    for (const base of merged)
      for (const [name, entry] of this.entries(base)) if (!found.has(name)) found.set(name, entry)
    return found
  }

  #valueOf(node: Node | null, path: string): YamlValue {
    if (node === null) return undefined
    const resolved = this.#resolve(node, path)
    return isScalar(resolved) && resolved.value === null ? undefined : { node: resolved, path }
  }

  #add(found: Map<string, Entry>, name: string, entry: Entry): void {
    const before = found.get(name)
    if (before !== undefined) {
      const lines = `${this.#where(before.key)} and ${this.#where(entry.key)}`
      if (JSON.stringify(before.value?.node) !== JSON.stringify(entry.value?.node))
        this.fail(entry.key, `${entry.key?.path} is there twice, at ${lines}, with two values`)
      this.#warn(`${lines}: ${entry.key?.path} is there twice`)
    }
    found.set(name, entry)
  }

  #map(value: YamlValue): YAMLMap | undefined {
    if (value === undefined) return undefined
    if (!isMap(value.node)) this.fail(value, `${value.path || 'the file'}: wanted keys and values`)
    return value.node
  }

  list(value: YamlValue): readonly NonNullable<YamlValue>[] {
    if (value === undefined) return []
    const { node, path } = value
    if (!isSeq(node)) this.fail(value, `${path}: wanted a list`)
    return node.items.map((item, at) => {
      const found = this.#valueOf(item as Node, `${path}[${at}]`)
      return found ?? this.fail(value, `${path}[${at}]: wanted a value`)
    })
  }

  /** Numbers and booleans are taken as they are written, as Docker's own files do. */
  text(value: NonNullable<YamlValue>): string {
    const { node, path } = value
    return isScalar(node) ? asWritten(node) : this.fail(value, `${path}: wanted a text`)
  }

  texts(value: YamlValue): readonly string[] {
    return this.list(value).map((item) => this.text(item))
  }

  /** A list, or one text that stands for a list of one. */
  textOrTexts(value: YamlValue): readonly string[] {
    return value !== undefined && isScalar(value.node) ? [this.text(value)] : this.texts(value)
  }

  /** Names and texts; null where a name has no value. */
  pairs(value: YamlValue): Readonly<Record<string, string | null>> {
    return Object.fromEntries(
      [...this.entries(value)].map(([name, { value: text }]) => [name, text === undefined ? null : this.text(text)]),
    )
  }

  /** The same where a name without a value has an empty one. */
  filledPairs(value: YamlValue): Readonly<Record<string, string>> {
    return Object.fromEntries(Object.entries(this.pairs(value)).map(([name, text]) => [name, text ?? '']))
  }

  optionalText(value: YamlValue): string | undefined {
    return value === undefined ? undefined : this.text(value)
  }

  flag(value: YamlValue): boolean {
    if (value === undefined) return false
    const found = isScalar(value.node) ? value.node.value : undefined
    if (typeof found !== 'boolean') this.fail(value, `${value.path}: wanted true or false`)
    return found
  }

  integer(value: NonNullable<YamlValue>, min: number, max: number): number {
    const found = isScalar(value.node) ? value.node.value : undefined
    if (typeof found !== 'number' || !Number.isInteger(found) || found < min || found > max)
      this.fail(value, `${value.path}: wanted a whole number from ${min} to ${max}`)
    return found
  }

  optionalInteger(value: YamlValue, min: number, max: number): number | undefined {
    return value === undefined ? undefined : this.integer(value, min, max)
  }

  oneOf<const Word extends string>(value: NonNullable<YamlValue>, words: readonly Word[]): Word {
    const found = this.text(value)
    const word = words.find((one) => one === found)
    return word ?? this.fail(value, `${value.path}: wanted one of ${words.join(', ')}`)
  }

  isMap(value: YamlValue): boolean {
    return value !== undefined && isMap(value.node)
  }

  isList(value: YamlValue): boolean {
    return value !== undefined && isSeq(value.node)
  }
}

/** `1.10` is not 1.1. */
function asWritten({ value, source }: Scalar): string {
  return typeof value === 'string' ? value : (source ?? String(value))
}
