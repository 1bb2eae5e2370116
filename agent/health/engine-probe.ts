/** What the container engine says; `engine: false` when it does not answer, with no containers. */
export type EngineState = { readonly engine: boolean; readonly containers: readonly string[] }

/** Asks the engine at `socketPath` for its running containers, within `timeoutMs`. */
export async function probeEngine(socketPath: string, timeoutMs = 5_000): Promise<EngineState> {
  const { default: Docker } = await import('dockerode') // not needed to start
  const docker = new Docker({ socketPath, timeout: timeoutMs })
  try {
    const containers = await docker.listContainers()
    return {
      engine: true,
      containers: containers.map((container) => container.Names[0]?.replace(/^\//, '') ?? container.Id).sort(),
    }
  } catch {
    return { engine: false, containers: [] } // whatever the reason, it does not answer
  }
}
