/** Where a build is. */
export type BuildStep = {
  readonly package: string
  readonly step: string
  /** Packages begun so far, this one included. */
  readonly begun: number
  /** Of so many, 0 while that is not known. */
  readonly total: number
}

/** What went wrong first. Everything after it is usually its consequence. */
export type BuildError = { readonly package: string; readonly step: string; readonly line: string; readonly at: number }

/** Buildroot begins each step of a package with such a line: name, version (which may be empty), step; the escapes are its bold type. */
const STEP = /^(?:\x1b\[\d*m)*>>> (\S+) (\S*) +(.+?)(?:\x1b.*)?$/
/** In order of how much they tell. Warnings turned off by `-Wno-error` and files called error.c are no errors. */
const ERRORS = [
  /(^|[\s:])(fatal )?error: \S/i,
  /^ERROR: /,
  /undefined reference to/,
  /No space left on device/,
  /: command not found$/,
  /cannot find -l/,
  /hash .*(mismatch|does not match)|wrong (sha256|md5) hash/i,
  /(Hunk #\d+ FAILED|can't find file to patch|Reversed \(or previously applied\) patch)/,
]
/** What make says when something under it failed: what was said just before it is why, whatever it looks like. */
const MAKE_STOPPED = /^make(\[\d+\])?: \*\*\* /

/** Follows the output of a Buildroot build, line by line. Pure but for its own state. */
export class BuildProgress {
  readonly #total: number
  readonly #begun = new Set<string>()
  #line = 0
  /** The last thing said in this step, and where. */
  #said: { readonly line: string; readonly at: number } | undefined
  #stopped: BuildError | undefined
  step: BuildStep | undefined
  #error: BuildError | undefined

  /** @param total - packages that will be built, 0 when unknown */
  constructor(total: number) {
    this.#total = total
  }

  /** @returns the step when the line begins one */
  take(line: string): BuildStep | undefined {
    this.#line += 1
    const [, name, , step] = STEP.exec(line) ?? []
    if (name !== undefined && step !== undefined) {
      this.#begun.add(name)
      // It went on to another package: what was said before was no error, or not one that stops.
      if (name !== this.#error?.package) this.#error = undefined
      this.#said = undefined
      this.step = { package: name, step, begun: this.#begun.size, total: Math.max(this.#total, this.#begun.size) }
      return this.step
    }
    const where = { package: this.step?.package ?? '', step: this.step?.step ?? '' }
    const place = { line: line.trim(), at: this.#line }
    if (ERRORS.some((pattern) => pattern.test(line))) this.#error ??= { ...where, ...place }
    else if (MAKE_STOPPED.test(line)) this.#stopped ??= { ...where, ...(this.#said ?? place) }
    if (place.line !== '' && !/^make(\[\d+\])?: /.test(line)) this.#said = place
    return undefined
  }

  /** The first real error of the package that failed, or what was said last before make stopped; undefined when nothing was. */
  get error(): BuildError | undefined {
    return this.#error ?? this.#stopped
  }
}
