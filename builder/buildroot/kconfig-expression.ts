/** A condition of Kconfig: `depends on A && (B || !C) && D = "x"`. Tristate `m` does not occur in Buildroot. */
export type Expression =
  | { readonly type: 'symbol'; readonly name: string }
  | { readonly type: 'text'; readonly value: string }
  | { readonly type: 'not'; readonly of: Expression }
  | { readonly type: 'and' | 'or'; readonly left: Expression; readonly right: Expression }
  | { readonly type: 'compare'; readonly operator: string; readonly left: Expression; readonly right: Expression }

/** The value of a symbol, `n` when it has none. */
export type ValueOf = (symbol: string) => string

const TOKEN = /\s*(&&|\|\||!=|<=|>=|[!()=<>]|"[^"]*"|'[^']*'|[^\s&|!()=<>"']+)/y

/** Parses a condition. @returns undefined when it is none: a comment, or syntax that is not known here */
export function parseExpression(text: string): Expression | undefined {
  const tokens: string[] = []
  TOKEN.lastIndex = 0
  while (TOKEN.lastIndex < text.trimEnd().length) {
    const token = TOKEN.exec(text)?.[1]
    if (token === undefined) return undefined
    if (token.startsWith('#')) break
    tokens.push(token)
  }
  let at = 0
  const take = (token: string) => tokens[at] === token && (at += 1) > 0
  const primary = (): Expression | undefined => {
    if (take('(')) {
      const inner = either()
      return take(')') ? inner : undefined
    }
    const token = tokens[at]
    if (token === undefined || /^(&&|\|\||[!()=<>]+)$/.test(token)) return undefined
    at += 1
    return /^["']/.test(token) ? { type: 'text', value: token.slice(1, -1) } : { type: 'symbol', name: token }
  }
  const comparison = (): Expression | undefined => {
    if (take('!')) {
      const of = comparison()
      return of && { type: 'not', of }
    }
    const left = primary()
    const operator = tokens[at]
    if (left === undefined || operator === undefined || !/^(!=|<=|>=|=|<|>)$/.test(operator)) return left
    at += 1
    const right = primary()
    return right && { type: 'compare', operator, left, right }
  }
  const chain = (operator: '&&' | '||', type: 'and' | 'or', next: () => Expression | undefined) => () => {
    let left = next()
    while (left !== undefined && take(operator)) {
      const right = next()
      left = right && { type, left, right }
    }
    return left
  }
  const both = chain('&&', 'and', comparison)
  const either: () => Expression | undefined = chain('||', 'or', both)
  const expression = either()
  return at === tokens.length ? expression : undefined
}

/** Whether the condition holds. Pure. */
export function evaluate(expression: Expression, valueOf: ValueOf): boolean {
  switch (expression.type) {
    case 'symbol':
    case 'text':
      return textOf(expression, valueOf) === 'y'
    case 'not':
      return !evaluate(expression.of, valueOf)
    case 'and':
      return evaluate(expression.left, valueOf) && evaluate(expression.right, valueOf)
    case 'or':
      return evaluate(expression.left, valueOf) || evaluate(expression.right, valueOf)
    case 'compare': {
      const [left, right] = [textOf(expression.left, valueOf), textOf(expression.right, valueOf)]
      const order =
        /^-?\d+$/.test(left) && /^-?\d+$/.test(right)
          ? Number(left) - Number(right)
          : left < right
            ? -1
            : left > right
              ? 1
              : 0
      const verdicts: Readonly<Record<string, boolean>> = {
        '=': order === 0,
        '!=': order !== 0,
        '<': order < 0,
        '>': order > 0,
        '<=': order <= 0,
        '>=': order >= 0,
      }
      return verdicts[expression.operator] === true
    }
  }
}

function textOf(expression: Expression, valueOf: ValueOf): string {
  if (expression.type === 'text') return expression.value
  if (expression.type !== 'symbol') return evaluate(expression, valueOf) ? 'y' : 'n'
  // Numbers and y, n stand for themselves.
  return /^([yn]|-?\d+|0x[\da-f]+)$/i.test(expression.name) ? expression.name : valueOf(expression.name)
}

/** The smallest parts of a condition that keep it from holding, as a person would write them. Empty when it holds. Pure. */
export function unmet(expression: Expression, valueOf: ValueOf): readonly string[] {
  if (evaluate(expression, valueOf)) return []
  if (expression.type === 'and') return [...unmet(expression.left, valueOf), ...unmet(expression.right, valueOf)]
  return [formatExpression(expression)]
}

export function formatExpression(expression: Expression): string {
  switch (expression.type) {
    case 'symbol':
      return expression.name
    case 'text':
      return `"${expression.value}"`
    case 'not':
      return `!${bracketed(expression.of)}`
    case 'and':
      return `${bracketed(expression.left)} && ${bracketed(expression.right)}`
    case 'or':
      return `${bracketed(expression.left)} || ${bracketed(expression.right)}`
    case 'compare':
      return `${formatExpression(expression.left)} ${expression.operator} ${formatExpression(expression.right)}`
  }
}

function bracketed(expression: Expression): string {
  const text = formatExpression(expression)
  return expression.type === 'and' || expression.type === 'or' ? `(${text})` : text
}
