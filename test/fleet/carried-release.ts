import { createCipheriv } from 'node:crypto'
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { ImageSet } from './build-images.ts'
import type { SimulatedFleet } from './simulated-fleet.ts'

/**
 * Publishes a release for pi-4 whose root file system is noise. Devices of another board carry it: they fetch every byte
 * of it from each other, without the reboot that only their own board would cost.
 * @param version - also the key of the noise: another version shares no chunk
 * @returns the release's id
 */
export async function publishNoise(
  fleet: SimulatedFleet,
  images: ImageSet,
  version: number,
  bytes: number,
): Promise<string> {
  const payload = join(fleet.directory, 'payload')
  rmSync(payload, { recursive: true, force: true })
  mkdirSync(payload)
  for (const name of ['init', 'vmlinuz']) cpSync(join(images.r1, name), join(payload, name))
  writeNoise(join(payload, 'rootfs.squashfs'), bytes, version)
  return fleet.release('pi-4', String(version), payload)
}

/** Writes noise that does not compress, the same for the same `key`. */
export function writeNoise(path: string, bytes: number, key: number): void {
  const secret = Buffer.alloc(16)
  secret.writeUInt32LE(key)
  writeFileSync(path, createCipheriv('aes-128-ctr', secret, Buffer.alloc(16)).update(Buffer.alloc(bytes)))
}

/** How much of a release a device holds, 0 … 100. */
export async function percentHeld(fleet: SimulatedFleet, name: string, id: string): Promise<number> {
  const releases = (await fleet.ask(name, '/releases').catch(() => [])) as { id: string; percent: number }[]
  return releases.find((release) => release.id === id)?.percent ?? 0
}

/** Waits until a device holds so much of a release. */
export async function untilHolds(
  fleet: SimulatedFleet,
  name: string,
  id: string,
  { percent = 100, timeoutMs = 120_000, pollMs = 50 } = {},
): Promise<void> {
  const deadline = performance.now() + timeoutMs
  for (;;) {
    const held = await percentHeld(fleet, name, id)
    if (held >= percent) return
    if (performance.now() > deadline) {
      throw new Error(`${name} holds ${held} % of ${id}, not ${percent} %\n${fleet.logTail(name)}`)
    }
    await pause(pollMs)
  }
}
