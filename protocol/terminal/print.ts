/** Prints a list as an aligned table, or as JSON. Data goes to stdout. */
export function printRows<Row extends Readonly<Record<string, unknown>>>(
  rows: readonly Row[],
  columns: readonly (readonly [title: string, cell: (row: Row) => string])[],
  options: { readonly json?: boolean },
): void {
  process.stdout.write(options.json === true ? `${JSON.stringify(rows, null, 2)}\n` : formatRows(rows, columns))
}

/** The table as text. Pure. */
export function formatRows<Row>(
  rows: readonly Row[],
  columns: readonly (readonly [title: string, cell: (row: Row) => string])[],
): string {
  const cells = [columns.map(([title]) => title), ...rows.map((row) => columns.map(([, cell]) => cell(row)))]
  const widths = columns.map((_, at) => Math.max(...cells.map((line) => (line[at] ?? '').length)))
  return cells
    .map(
      (line) =>
        `${line
          .map((cell, at) => cell.padEnd(widths[at] ?? 0))
          .join('  ')
          .trimEnd()}\n`,
    )
    .join('')
}

/** `12.3 MB`: decimal units, as disks and links are sold. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let value = bytes
  let unit = 0
  for (; value >= 1_000 && unit < units.length - 1; unit += 1) value /= 1_000
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`
}

/** `3 s`, `5 min`, `2 h`, `4 d`. */
export function formatAge(seconds: number): string {
  if (seconds < 120) return `${Math.round(seconds)} s`
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`
  if (seconds < 172_800) return `${Math.round(seconds / 3_600)} h`
  return `${Math.round(seconds / 86_400)} d`
}

/** A bar of `width` cells. Pure. */
export function bar(percent: number, width: number): string {
  const full = Math.round((Math.min(100, Math.max(0, percent)) * width) / 100)
  return `${'█'.repeat(full)}${'░'.repeat(width - full)}`
}

/** Redraws a block of lines on a terminal; without one, prints only lines that changed. Words go to stderr. */
export class LiveView {
  #drawn = 0
  #last: readonly string[] = []

  draw(lines: readonly string[]): void {
    if (process.stderr.isTTY) {
      process.stderr.write(`${this.#drawn > 0 ? `\x1b[${this.#drawn}A\x1b[J` : ''}${lines.join('\n')}\n`)
      this.#drawn = lines.length
    } else {
      // How long ago something was heard changes all the time and is no news.
      const news = lines.map((line) => line.replace(/ *\d+ (s|min|h|d) ago/, ''))
      for (const [at, line] of news.entries()) if (!this.#last.includes(line)) process.stderr.write(`${lines[at]}\n`)
      this.#last = news
    }
  }
}
