import { isMap, isScalar, isSeq, LineCounter, type Node, parseDocument, type YAMLMap } from 'yaml'
import { FlotillaError } from '../errors.ts'

/** A value in a YAML file, with where it stands. `undefined` stands for a key that is not there, or has no value. */
export type YamlValue = { readonly node: Node; readonly path: string } | undefined

const MAX_ALIASES = 20

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
  readonly #resolve: (node: Node) => Node | undefined
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
    let aliases = 0
    this.#resolve = (node) => {
      if (!('source' in node) || !('resolve' in node) || typeof node.resolve !== 'function') return node
      aliases += 1
      const found: unknown = aliases > MAX_ALIASES ? undefined : node.resolve(document)
      return isMap(found) || isSeq(found) || isScalar(found) ? found : undefined
    }
    this.root = document.contents === null ? undefined : { node: document.contents, path: '' }
  }

  /** @throws FlotillaError BAD_CONFIG, always */
  fail(value: YamlValue, words: string): never {
    const { line, excerpt } = this.#where(value)
    throw new FlotillaError('BAD_CONFIG', `${line}: ${words}${excerpt}`)
  }

  #where(value: YamlValue): { readonly line: string; readonly excerpt: string } {
    const offset = value?.node.range?.[0]
    if (offset === undefined) return { line: this.#file, excerpt: '' }
    const { line, col } = this.#lines.linePos(offset)
    const excerpt = (this.#text.split('\n')[line - 1] ?? '').trim().slice(0, 80)
    return { line: `${this.#file}:${line}:${col}`, excerpt: excerpt === '' ? '' : ` (${excerpt})` }
  }

  /**
   * A mapping whose keys are known.
   * @returns gives the value of each
   */
  keys<const Key extends string>(value: YamlValue, known: readonly Key[]): (key: Key) => YamlValue {
    const found = this.entries(value)
    for (const [name, entry] of found) {
      if (known.some((key) => key === name)) continue
      const words = `no such key: ${name} (known: ${known.join(', ')})`
      if (!this.#lenient) this.fail(entry.key, words)
      this.warnings.push(`${this.#where(entry.key).line}: ${words}; it is ignored`)
    }
    return (key) => found.get(key)?.value
  }

  /** A mapping whose keys are names that the file chooses, in order. A key that is there twice must have one value. */
  entries(value: YamlValue): ReadonlyMap<string, { readonly key: YamlValue; readonly value: YamlValue }> {
    const found = new Map<string, { readonly key: YamlValue; readonly value: YamlValue }>()
    const map = this.#map(value)
    for (const pair of map?.items ?? []) {
      const keyNode = pair.key as Node | null
      const name = isScalar(keyNode) ? String(keyNode.value) : undefined
      if (name === undefined || keyNode === null) this.fail(value, 'a key must be a word')
      const path = value === undefined || value.path === '' ? name : `${value.path}.${name}`
      const key = { node: keyNode, path }
      const node = pair.value as Node | null
      const resolved = node === null ? undefined : this.#resolve(node)
      const empty = resolved === undefined || (isScalar(resolved) && resolved.value === null)
      const entry = { key, value: empty ? undefined : { node: resolved, path } }
      const before = found.get(name)
      if (before !== undefined) {
        const lines = `${this.#where(before.key).line} and ${this.#where(key).line}`
        if (JSON.stringify(before.value?.node) !== JSON.stringify(entry.value?.node))
          this.fail(key, `${path} is there twice, at ${lines}, with two values`)
        this.warnings.push(`${lines}: ${path} is there twice`)
      }
      found.set(name, entry)
    }
    return found
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
      const resolved = this.#resolve(item as Node)
      if (resolved === undefined) this.fail(value, `${path}[${at}]: wanted a value`)
      return { node: resolved, path: `${path}[${at}]` }
    })
  }

  /** Numbers and booleans are taken as they are written, as Docker's own files do. */
  text(value: NonNullable<YamlValue>): string {
    const { node, path } = value
    if (!isScalar(node)) this.fail(value, `${path}: wanted a text`)
    if (typeof node.value === 'string') return node.value
    return node.source ?? String(node.value)
  }

  texts(value: YamlValue): readonly string[] {
    return this.list(value).map((item) => this.text(item))
  }

  /** A list, or one text that stands for a list of one. */
  textOrTexts(value: YamlValue): readonly string[] {
    return value !== undefined && isScalar(value.node) ? [this.text(value)] : this.texts(value)
  }

  /** Names and texts. */
  pairs(value: YamlValue): Readonly<Record<string, string>> {
    return Object.fromEntries(
      [...this.entries(value)].map(([name, entry]) => [name, entry.value === undefined ? '' : this.text(entry.value)]),
    )
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
