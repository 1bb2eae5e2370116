import { buildImages } from '../fleet/build-images.ts'
import { LoginRig } from '../login/login-rig.ts'
import type { BenchRow } from './bench.ts'

const RUNS = 15
const BYTES = 100_000_000

/**
 * A session that lands in a container, beside one that stays on the host (`ssh` with plain `sh`) and beside `docker exec` without
 * SSH, in turn, in one run: how long it takes to run `true`, and to read 100 MB.
 */
export async function benchLogin(): Promise<readonly BenchRow[]> {
  await buildImages(() => {})
  const rig = new LoginRig()
  try {
    await rig.start()
    const user = { container: 'debian', containerShell: ['/bin/sh'], auth: { sshKeys: [rig.publicKey] } }
    const debian = {
      image: 'debian:1',
      entrypoint: ['/bin/sleep', '1d'],
      stopTimeoutSeconds: 0,
      startAfterCreate: true,
    }
    rig.write({ containers: { debian }, users: { core: user } })
    await rig.boot()
    const docker = (command: readonly string[]) =>
      rig.run('docker', ['-H', `unix://${rig.engine.socket}`, 'exec', 'debian', ...command])
    const ways = {
      ours: (command: string) => rig.ssh('core', [command]),
      plain: (command: string) => rig.ssh('plain', [command]),
      exec: (command: string) => docker(['/bin/sh', '-c', command]),
    }
    const start = await inTurn(ways, 'true', RUNS)
    const read = await inTurn(ways, `head -c ${BYTES} /dev/zero`, 3)
    const row = (name: string, values: Record<keyof typeof ways, number>, peer: 'plain' | 'exec'): BenchRow => ({
      name: `login: ${name}`,
      ours: values.ours,
      peer: values[peer],
      peerName: peer === 'plain' ? 'ssh, sh on the host' : 'docker exec',
      unit: 'ms',
      bound: null,
    })
    return [
      row('run true', start, 'plain'),
      row('run true', start, 'exec'),
      row('read 100 MB', read, 'plain'),
      row('read 100 MB', read, 'exec'),
    ]
  } finally {
    await rig.close()
  }
}

/** The median of each way, milliseconds. */
async function inTurn<Way extends string>(
  ways: Readonly<Record<Way, (command: string) => Promise<{ readonly code: number; readonly stderr: string }>>>,
  command: string,
  runs: number,
): Promise<Record<Way, number>> {
  const names = Object.keys(ways) as Way[]
  const times = new Map(names.map((name) => [name, [] as number[]]))
  for (let run = 0; run <= runs; run += 1)
    for (const name of names) {
      const started = performance.now()
      const { code, stderr } = await ways[name](command)
      if (code !== 0) throw new Error(`${name}: ${command}: exit ${code}: ${stderr}`)
      if (run > 0) times.get(name)?.push(performance.now() - started) // the first warms up
    }
  const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN
  return Object.fromEntries(names.map((name) => [name, median(times.get(name) ?? [])])) as Record<Way, number>
}
