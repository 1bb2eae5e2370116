import type { ContainerSpec } from '../../protocol/core/container-spec.ts'
import type { CarriedVolume } from './create-options.ts'

/** A container as the engine shows it. */
export type FoundContainer = {
  readonly id: string
  /** Docker's name, without the slash. */
  readonly name: string
  readonly imageId: string
  /** The image as it was named when the container was created. */
  readonly image: string
  readonly labels: Readonly<Record<string, string>>
  readonly status: 'created' | 'running' | 'paused' | 'restarting' | 'removing' | 'exited' | 'dead'
  readonly exitCode: number
  readonly restarts: number
  /** `none` without a health check. */
  readonly health: 'none' | 'starting' | 'healthy' | 'unhealthy'
  /** Docker's name of it. One that is `always` is started with the engine, also after it was stopped by hand. */
  readonly restartPolicy: string
  /** Time that it is given to end when it is stopped. */
  readonly stopSeconds: number
  /** What the engine says about why it does not run; empty when nothing. */
  readonly problem: string
  readonly createdMs: number
  readonly finishedMs: number
  /** Volumes that it mounts, named ones and those that its image asked for. */
  readonly volumes: readonly CarriedVolume[]
  /** What tells whether it was made as a file says: Docker's own fields. */
  readonly made: {
    readonly binds: readonly string[]
    readonly privileged: boolean
    readonly hostNetwork: boolean
    readonly tty: boolean
    readonly env: readonly string[]
    readonly entrypoint: readonly string[]
    readonly cmd: readonly string[]
  }
}

export function isRunning({ status }: FoundContainer): boolean {
  return status === 'running' || status === 'paused' || status === 'restarting'
}

/**
 * Whether a container without our labels was made from this part of a file, as SkiffOS's own program does. It leaves
 * no mark of its own, so everything that it sets is compared. Pure.
 */
export function isMadeFrom({ image, made }: FoundContainer, spec: ContainerSpec): boolean {
  const binds = made.binds.filter((bind) => !bind.startsWith('/usr/bin/tini:'))
  return (
    image === spec.image &&
    sameSet(binds, spec.mounts) &&
    made.privileged === spec.privileged &&
    made.hostNetwork === spec.hostNetwork &&
    made.tty === spec.tty &&
    spec.env.every((variable) => made.env.includes(variable)) &&
    (spec.entrypoint === undefined || sameList(made.entrypoint, spec.entrypoint)) &&
    (spec.cmd === undefined || sameList(made.cmd, spec.cmd))
  )
}

function sameSet(a: readonly string[], b: readonly string[]): boolean {
  return sameList([...a].sort(), [...b].sort())
}

function sameList(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((item, at) => item === b[at])
}
