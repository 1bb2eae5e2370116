/**
 * Closed table of failures a person or a script can meet, with the exit code of each.
 * Exit codes: 1 unexpected, 2 usage or bad input, 3 trust refused, 4 not found or out of reach,
 * 5 no room or disk failure, 6 state forbids it now, 7 the release failed or fell back, the build failed or is not
 * the same as another.
 */
export const EXIT_CODES = {
  USAGE: 2,
  BAD_INPUT: 2,
  BAD_CONFIG: 2,
  BAD_FRAME: 2,
  BAD_INDEX: 2,
  SIGNATURE: 3,
  ROLLBACK: 3,
  EXPIRED: 3,
  MIX_AND_MATCH: 3,
  FORMAT: 3,
  LENGTH: 3,
  MISSING: 3,
  LIMIT: 3,
  NOT_FOR_THIS_DEVICE: 3,
  NOT_A_MEMBER: 3,
  REVOKED: 3,
  WRONG_PASSPHRASE: 3,
  NOT_FOUND: 4,
  UNREACHABLE: 4,
  TIMEOUT: 4,
  NOT_ENOUGH_SPACE: 5,
  DISK_FAILED: 5,
  VERIFY_FAILED: 5,
  ON_TRIAL: 6,
  ON_HOLD: 6,
  BOOT_COUNTER_STUCK: 6,
  ALREADY_EXISTS: 6,
  BUSY: 6,
  FELL_BACK: 7,
  BUILD_FAILED: 7,
  NOT_REPRODUCIBLE: 7,
  UNEXPECTED: 1,
} as const

/** One of the codes a failure can carry; also what `--json` prints as `error.code`. */
export type ErrorCode = keyof typeof EXIT_CODES

/**
 * A failure with a closed code. The message says what was attempted, on what, what was found,
 * what was wanted, and what to do next.
 */
export class FlotillaError extends Error {
  readonly code: ErrorCode
  readonly details: Readonly<Record<string, unknown>>

  constructor(
    code: ErrorCode,
    message: string,
    options: { readonly cause?: unknown; readonly details?: Readonly<Record<string, unknown>> } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'FlotillaError'
    this.code = code
    this.details = options.details ?? {}
  }
}

/** True when `error` is a FlotillaError, optionally of one code. */
export function isFlotillaError(error: unknown, code?: ErrorCode): error is FlotillaError {
  return error instanceof FlotillaError && (code === undefined || error.code === code)
}

/** Whether a peer did something wrong: not when it was out of reach, slow or busy, or something of ours failed. */
export function isOffence(error: unknown): error is FlotillaError {
  return isFlotillaError(error) && error.code !== 'UNREACHABLE' && error.code !== 'TIMEOUT' && error.code !== 'BUSY'
}

/** The text of anything thrown, for logs and wrapping. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
