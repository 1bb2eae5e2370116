import { execFileSync } from 'node:child_process'
import { closeSync, lstatSync, mkdtempSync, openSync, readdirSync, readlinkSync, readSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { FlotillaError, messageOf } from '../../protocol/errors.ts'

/** What differs between two directories of images, or two files, first: in byte order of the names. */
export type Difference = {
  /** Relative to both; empty when two files were compared. */
  readonly path: string
  readonly why: string
  /** In a squashfs: the first file in it that differs, when it is the content and not only how it was packed. */
  readonly inside: Difference | undefined
}

const BLOCK = 2 ** 20

/**
 * Compares what two builds left: every name, kind, mode and byte. Looks into a squashfs that differs.
 * @returns undefined when they are the same
 * @throws FlotillaError BAD_INPUT when one cannot be read
 */
export function compareImages(a: string, b: string): Difference | undefined {
  try {
    return compare(a, b, '')
  } catch (cause) {
    if (cause instanceof FlotillaError) throw cause
    throw new FlotillaError('BAD_INPUT', `compare ${a} with ${b}: ${messageOf(cause)}`, { cause })
  }
}

function compare(rootA: string, rootB: string, path: string): Difference | undefined {
  const [a, b] = [join(rootA, path), join(rootB, path)]
  const [statA, statB] = [lstatSync(a), lstatSync(b)]
  const differs = (why: string, inside?: Difference) => ({ path, why, inside })
  if ((statA.mode ^ statB.mode) !== 0) return differs(`mode ${octal(statA.mode)} and ${octal(statB.mode)}`)
  if (statA.isSymbolicLink()) {
    const [to, other] = [readlinkSync(a), readlinkSync(b)]
    return to === other ? undefined : differs(`a link to ${to} and to ${other}`)
  }
  if (statA.isDirectory()) {
    const [names, others] = [sortedNames(a), sortedNames(b)]
    for (const name of [...new Set([...names, ...others])].sort(byBytes)) {
      const child = path === '' ? name : `${path}/${name}`
      if (!names.includes(name) || !others.includes(name))
        return { path: child, why: `only in ${names.includes(name) ? rootA : rootB}`, inside: undefined }
      const found = compare(rootA, rootB, child)
      if (found !== undefined) return found
    }
    return undefined
  }
  if (!statA.isFile()) return undefined // a device node is what its mode says
  const at = firstDifference(a, b)
  if (at === undefined) return undefined
  const sizes = statA.size === statB.size ? '' : `; ${statA.size} and ${statB.size} bytes`
  return differs(`byte ${at}${sizes}`, isSquashfs(a) && isSquashfs(b) ? insideOf(a, b) : undefined)
}

function octal(mode: number): string {
  return mode.toString(8)
}

function sortedNames(directory: string): string[] {
  return readdirSync(directory).sort(byBytes)
}

function byBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}

/** The offset of the first byte that differs; the shorter length when one goes on. */
function firstDifference(a: string, b: string): number | undefined {
  const [fileA, fileB] = [openSync(a, 'r'), openSync(b, 'r')]
  const [bufferA, bufferB] = [Buffer.allocUnsafe(BLOCK), Buffer.allocUnsafe(BLOCK)]
  try {
    for (let offset = 0; ; ) {
      const lengthA = readSync(fileA, bufferA, 0, BLOCK, offset)
      const lengthB = readSync(fileB, bufferB, 0, BLOCK, offset)
      const [partA, partB] = [bufferA.subarray(0, lengthA), bufferB.subarray(0, lengthB)]
      if (!partA.equals(partB)) {
        const at = partA.findIndex((byte, n) => byte !== partB[n])
        return offset + (at === -1 ? lengthA : at)
      }
      if (lengthA === 0) return undefined
      offset += lengthA
    }
  } finally {
    closeSync(fileA)
    closeSync(fileB)
  }
}

function isSquashfs(path: string): boolean {
  const file = openSync(path, 'r')
  try {
    const magic = Buffer.alloc(4)
    readSync(file, magic, 0, 4, 0)
    return magic.toString('latin1') === 'hsqs'
  } finally {
    closeSync(file)
  }
}

/** Unpacks both and compares what is in them; undefined when only the packing differs, or it cannot be unpacked here. */
function insideOf(a: string, b: string): Difference | undefined {
  const scratch = mkdtempSync(join(tmpdir(), 'flotilla-compare-'))
  try {
    for (const [name, image] of [
      ['a', a],
      ['b', b],
    ] as const) {
      const options = ['-no-progress', '-ignore-errors', '-no-exit-code', '-no-xattrs']
      execFileSync('unsquashfs', [...options, '-d', join(scratch, name), image], { stdio: 'ignore' })
    }
    return compare(join(scratch, 'a'), join(scratch, 'b'), '')
  } catch (error) {
    return { path: '', why: `it cannot be looked into: ${messageOf(error)}`, inside: undefined }
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

/** As one line: `rootfs.squashfs: byte 96; in it etc/hostname: byte 3`. */
export function describeDifference({ path, why, inside }: Difference): string {
  const here = path === '' ? why : `${path}: ${why}`
  return inside === undefined ? here : `${here}; in it ${describeDifference(inside)}`
}
