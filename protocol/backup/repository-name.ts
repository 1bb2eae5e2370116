import { FlotillaError } from '../errors.ts'

/**
 * Whose repository: `<device id>.<line>`, the device that began it and a count of those that it began. A device whose
 * repository was given to its replacement begins the next.
 */
export const REPOSITORY_PATTERN = /^([1-9A-HJ-NP-Za-km-z]{20,100})\.([1-9]\d{0,5})$/

export type RepositoryName = { readonly device: string; readonly line: number }

export function repositoryName(device: string, line: number): string {
  return `${device}.${line}`
}

/** @throws FlotillaError FORMAT */
export function parseRepositoryName(text: string): RepositoryName {
  const [, device, line] = REPOSITORY_PATTERN.exec(text) ?? []
  if (device === undefined)
    throw new FlotillaError('FORMAT', `${text.slice(0, 110)}: wanted a device id, a dot and a number`)
  return { device, line: Number(line) }
}
