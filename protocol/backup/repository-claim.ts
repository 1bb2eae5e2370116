import { shape } from '../shape.ts'
import { REPOSITORY_PATTERN } from './repository-name.ts'
import { MAX_SEALED_HEX } from './seal.ts'

/**
 * Gives the backup repository of one device to another. Part of the fleet's signed policy, so it reaches every device, the old one
 * too, and cannot be taken back by a peer.
 */
export type RepositoryClaim = {
  readonly repository: string
  /** The device that takes it over. */
  readonly to: string
  /** 1 for the first that takes it over, and so on. */
  readonly epoch: number
  /** Whose repository it was until then, and under which epoch: nobody else's word of what is in it counts. */
  readonly from: string
  readonly fromEpoch: number
  /** Its password, sealed to that device. */
  readonly sealed: string
}

/** So many fit into a policy. */
export const MAX_CLAIMS = 64

/** @throws FlotillaError FORMAT */
export function parseClaims(value: unknown, what: string): readonly RepositoryClaim[] {
  return shape.array(value, what, MAX_CLAIMS).map((item) => {
    const json = shape.object(item, `${what}[]`)
    return {
      repository: shape.matching(json['repository'], `${what}[].repository`, REPOSITORY_PATTERN, 'a repository'),
      to: shape.string(json['to'], `${what}[].to`, 128),
      epoch: shape.integer(json['epoch'], `${what}[].epoch`, 1, 1_000_000),
      from: shape.string(json['from'], `${what}[].from`, 128),
      fromEpoch: shape.integer(json['fromEpoch'], `${what}[].fromEpoch`, 0, 1_000_000),
      sealed: shape.string(json['sealed'], `${what}[].sealed`, MAX_SEALED_HEX),
    }
  })
}
