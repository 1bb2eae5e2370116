import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { writeManifest } from '../../builder/images/image-manifest.ts'
import { buildContainerLoader } from '../boot/build-initramfs.ts'
import { imageSet } from '../fleet/build-images.ts'
import { namespaceNetwork } from '../fleet/network.ts'
import { SimulatedFleet } from '../fleet/simulated-fleet.ts'
import { MachineImages } from './machine-images.ts'

/** Init of a release in a container: what systemd's units do of it. It must not touch what belongs to the machine around it. */
const INIT = `#!/bin/busybox sh
b=/bin/busybox
export PATH=/usr/bin:/usr/sbin HOME=/root
$b mount -t tmpfs tmpfs /run
$b mount -t tmpfs tmpfs /tmp
echo "release $($b cat /etc/flotilla/release) as $($b cat /proc/sys/kernel/hostname)"
flotilla persist prepare --wait 3
echo "now $($b cat /proc/sys/kernel/hostname)"
while :; do
  flotilla agent run --config /mnt/persist/agent.yaml
  $b test $? = 42 && break
  $b sleep 1
done
$b reboot -f
`
const BOARD = 'virtual-container'

describe('devices that are containers, started by flotilla-container', () => {
  let fleet: SimulatedFleet
  let images: MachineImages

  beforeAll(() => {
    fleet = new SimulatedFleet(namespaceNetwork(100), imageSet())
    images = new MachineImages('x86_64', '')
  })
  afterAll(async () => {
    await fleet.close()
    images.close()
  })

  /** A release has a root and nothing that starts a kernel. */
  function build(version: string): string {
    return images.build({
      version,
      init: INIT,
      spoilImages: (directory) => {
        const built = { layers: 'virt/docker', buildroot: 'Debian', files: ['rootfs.squashfs'] }
        writeManifest(directory, { board: BOARD, hardware: [BOARD], family: 'container', ...built })
      },
    })
  }

  async function add(name: string): Promise<void> {
    const { directory } = await fleet.addDevice(name, BOARD, `${BOARD}@1`, {
      family: 'container',
      boot: '/boot',
      persist: '/mnt/persist',
      socket: '/mnt/persist/agent.sock',
      holdFile: '/mnt/persist/hold',
      healthDirectory: '/etc/flotilla/health',
      engineSocket: '/mnt/persist/no-engine.sock',
    })
    copyFileSync(join(directory, 'agent.yaml'), join(directory, 'persist/agent.yaml'))
    mkdirSync(join(directory, 'run'))
    mkdirSync(join(directory, 'persist/skiff'))
    writeFileSync(join(directory, 'persist/skiff/hostname'), `${name}\n`)
    symlinkSync('../persist/agent.sock', join(directory, 'run/agent.sock'))
  }

  it('upgrade each other and restart into the new root', async () => {
    const loader = buildContainerLoader(fleet.directory)
    await fleet.init()
    await fleet.release(BOARD, '1', build('1'))
    for (const name of ['one', 'two']) await add(name)
    for (const name of ['one', 'two']) fleet.startProgramOn(name, [loader, fleet.device(name).directory])
    for (const name of ['one', 'two']) await fleet.untilRunning(name, '1')
    const start = fleet.logTail('one')
    expect(start).toMatch(/release 1 as/)
    // The hostname is the release's own.
    expect(start).toContain('now one')
    expect(readFileSync('/proc/sys/kernel/hostname', 'utf8').trim()).not.toBe('one')

    await fleet.release(BOARD, '2', build('2'))
    await fleet.flotilla(['seed', 'one', `${BOARD}@2`, '--timeout', '120'])
    for (const name of ['one', 'two']) await fleet.untilRunning(name, '2')
    for (const name of ['one', 'two']) {
      const log = readFileSync(join(fleet.directory, `${name}.log`), 'utf8')
      expect(log.match(/^release \d/gm)).toEqual(['release 1', 'release 2'])
      expect(log.match(/on trial: .*/g)).toHaveLength(1)
    }
  })
})
