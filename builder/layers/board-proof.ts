import { existsSync, writeFileSync } from 'node:fs'
import { FlotillaError } from '../../protocol/errors.ts'
import { parseJson, shape } from '../../protocol/shape.ts'
import { readText } from './layer.ts'

/**
 * What tests left behind in the repository: for each board the Buildroot versions on which it resolved without a lost
 * setting, and what was built and booted. Never written by hand.
 */
export type ProofFile = Readonly<Record<string, BoardProof>>
export type BoardProof = {
  readonly resolves: readonly string[]
  /** Kernel versions on which the kernel fragments resolved exactly and every device tree was there. */
  readonly kernels: readonly string[]
  /** U-Boot versions that have the board, and on which its fragments resolved exactly. */
  readonly uboots: readonly string[]
  readonly builds: readonly string[]
  readonly boots: readonly string[]
}

const NOTHING: BoardProof = { resolves: [], kernels: [], uboots: [], builds: [], boots: [] }
const MAX_BYTES = 262_144

/** @returns nothing proven for a file that is not there. @throws FlotillaError BAD_INPUT when it cannot be read */
export function readProofs(file: string): ProofFile {
  if (!existsSync(file)) return {}
  try {
    const json = shape.object(parseJson(Buffer.from(readText(file)), file, MAX_BYTES), file)
    return Object.fromEntries(
      Object.entries(json).map(([board, value]) => [board, parseProof(value, `${file}: ${board}`)]),
    )
  } catch (cause) {
    throw new FlotillaError('BAD_INPUT', `read ${file}: made by npm run test:buildroot, and damaged since`, { cause })
  }
}

/** Boards in the order of their names, so that a difference shows what a test saw. */
export function writeProofs(file: string, proofs: ProofFile): void {
  writeFileSync(file, `${JSON.stringify(Object.fromEntries(Object.entries(proofs).sort()), null, 2)}\n`)
}

function parseProof(value: unknown, path: string): BoardProof {
  const json = shape.object(value, path)
  const versions = (key: keyof BoardProof) =>
    shape.array(json[key] ?? [], `${path}.${key}`, 64).map((item) => shape.string(item, `${path}.${key}[]`, 64))
  return {
    resolves: versions('resolves'),
    kernels: versions('kernels'),
    uboots: versions('uboots'),
    builds: versions('builds'),
    boots: versions('boots'),
  }
}

/** The furthest step, with the versions it was taken on. Pure. */
export function describeProof(proofs: ProofFile, board: string): string {
  const { resolves, kernels, uboots, builds, boots } = proofs[board] ?? NOTHING
  if (boots.length > 0) return `boots in a VM (${boots.join(', ')})`
  if (builds.length > 0) return `builds (${builds.join(', ')})`
  const kernel = kernels.length > 0 ? `; kernel ${kernels.join(', ')}` : ''
  const uboot = uboots.length > 0 ? `; U-Boot ${uboots.join(', ')}` : ''
  return resolves.length > 0 ? `resolves (${resolves.join(', ')}${kernel}${uboot})` : 'nothing yet'
}

/** A proof with what a test has just seen: a version that failed is taken out. Pure. */
export function withProof(
  proofs: ProofFile,
  board: string,
  step: keyof BoardProof,
  version: string,
  passed: boolean,
): ProofFile {
  const before = proofs[board] ?? NOTHING
  const others = before[step].filter((other) => other !== version)
  return { ...proofs, [board]: { ...before, [step]: passed ? [...others, version].sort() : others } }
}
