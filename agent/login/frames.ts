import { FlotillaError } from '../../protocol/errors.ts'
import { parseJson, shape } from '../../protocol/shape.ts'

/**
 * What goes between the login shell and the agent: one byte for the kind, four for the length, the payload.
 * From the shell: `open` … `agent-end`; from the agent: `stdout` … `credit`; `agent-data` and `agent-end` both ways.
 */
export const FRAMES = {
  open: 0,
  stdin: 1,
  'stdin-end': 2,
  resize: 3,
  signal: 4,
  'agent-data': 5,
  'agent-end': 6,
  stdout: 16,
  stderr: 17,
  exit: 18,
  progress: 19,
  error: 20,
  ready: 21,
  'agent-open': 22,
  credit: 23,
} as const
export type FrameKind = keyof typeof FRAMES
export type Frame = { readonly kind: FrameKind; readonly payload: Buffer }

export const MAX_FRAME_BYTES = 1_048_576
/** Input that the shell may send before the agent says that it was taken (`credit`): signals are never stuck behind more. */
export const INPUT_WINDOW_BYTES = 262_144
/** Signals that go through to the command. */
export const SIGNALS = ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGUSR1', 'SIGUSR2'] as const
/** The exit code that says that there was no session: EX_UNAVAILABLE of sysexits.h. */
export const UNAVAILABLE = 69
const HEADER_BYTES = 5
const KINDS = new Map<number, FrameKind>(Object.entries(FRAMES).map(([kind, code]) => [code, kind as FrameKind]))

/** @param payload - at most MAX_FRAME_BYTES */
export function encodeFrame(kind: FrameKind, payload: Uint8Array | string = ''): Buffer {
  const bytes = Buffer.from(payload)
  const header = Buffer.alloc(HEADER_BYTES)
  header[0] = FRAMES[kind]
  header.writeUInt32BE(bytes.length, 1)
  return Buffer.concat([header, bytes])
}

/** The payload of `agent-*` (a connection, and what it carries) and of `credit` (bytes). */
export function encodeNumber(number: number, data: Uint8Array = Buffer.alloc(0)): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(number)
  return Buffer.concat([bytes, data])
}

/** Cuts a stream into frames, whatever pieces it comes in. Holds one frame at most. */
export class FrameReader {
  #rest: Buffer = Buffer.alloc(0)

  /** @throws FlotillaError BAD_FRAME for a kind or a length that does not exist */
  push(part: Uint8Array): readonly Frame[] {
    this.#rest = this.#rest.length === 0 ? Buffer.from(part) : Buffer.concat([this.#rest, part])
    const frames: Frame[] = []
    while (this.#rest.length >= HEADER_BYTES) {
      const kind = KINDS.get(this.#rest[0] ?? 255)
      const length = this.#rest.readUInt32BE(1)
      if (kind === undefined || length > MAX_FRAME_BYTES)
        throw new FlotillaError('BAD_FRAME', `login: a frame of kind ${this.#rest[0]} with ${length} bytes`)
      if (this.#rest.length < HEADER_BYTES + length) break
      frames.push({ kind, payload: this.#rest.subarray(HEADER_BYTES, HEADER_BYTES + length) })
      this.#rest = this.#rest.subarray(HEADER_BYTES + length)
    }
    return frames
  }
}

/** Of a terminal, in characters; 0 where it does not say. */
export type TerminalSize = { readonly columns: number; readonly rows: number }

/** How a session begins. */
export type OpenRequest = TerminalSize & {
  /** What `ssh host command` says; undefined for a shell. */
  readonly command: string | undefined
  readonly tty: boolean
  readonly env: Readonly<Record<string, string>>
  /** The client forwards its SSH agent. */
  readonly hasAgent: boolean
}

const MAX_COMMAND = 262_144
const MAX_VARIABLES = 64

/** @throws FlotillaError FORMAT, LENGTH */
export function parseOpen(payload: Uint8Array): OpenRequest {
  const json = shape.object(parseJson(payload, 'login', MAX_FRAME_BYTES), 'login')
  const env = Object.entries(shape.object(json['env'], 'login: env'))
  if (env.length > MAX_VARIABLES) throw new FlotillaError('FORMAT', `login: more than ${MAX_VARIABLES} variables`)
  return {
    command: json['command'] === undefined ? undefined : shape.string(json['command'], 'login: command', MAX_COMMAND),
    tty: shape.boolean(json['tty'], 'login: tty'),
    ...parseSize(json),
    env: Object.fromEntries(
      env.map(([name, value]) => [
        shape.matching(name, 'login: env', /^[A-Z_][A-Z0-9_]{0,63}$/, 'a variable'),
        shape.string(value, `login: env.${name}`, 4_096),
      ]),
    ),
    hasAgent: shape.boolean(json['hasAgent'], 'login: hasAgent'),
  }
}

/** @throws FlotillaError FORMAT */
export function parseSize(value: unknown): TerminalSize {
  const json = shape.object(value, 'login: size')
  return {
    columns: shape.integer(json['columns'], 'login: columns', 0, 65_535),
    rows: shape.integer(json['rows'], 'login: rows', 0, 65_535),
  }
}
