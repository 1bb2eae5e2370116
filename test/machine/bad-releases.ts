import { chmodSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Variant } from './machine-images.ts'

/** A release that cannot work, and what a device says when it is back on the one before. */
export type BadRelease = { readonly what: string; readonly variant: Omit<Variant, 'version'>; readonly why: RegExp }

const program = (path: string, text: string) => {
  rmSync(path, { force: true })
  writeFileSync(path, text)
  chmodSync(path, 0o755)
}
const kernelIn = (images: string) =>
  join(images, readdirSync(images).find((name) => name === 'vmlinuz' || name === 'Image') ?? '')

/** What dies at each stage, from the loader to the release's own checks. */
export const BAD_RELEASES: readonly BadRelease[] = [
  {
    what: 'a kernel that is garbage',
    variant: { spoilImages: (images) => writeFileSync(kernelIn(images), Buffer.alloc(4 << 20, 0xa5)) },
    // systemd-boot keeps no note of what it could not load.
    why: /loader: it could not load the kernel|kernel: nothing was heard/,
  },
  {
    what: 'a kernel that panics',
    // Neither an init in the initramfs nor a root to mount.
    variant: { commandLine: 'rdinit=/none root=/dev/none' },
    why: /kernel: nothing was heard of it after the loader/,
  },
  {
    what: 'no init',
    variant: { spoilRoot: (tree) => rmSync(join(tree, 'usr/sbin/init')) },
    why: /initramfs: start \/sbin\/init: No such file or directory/,
  },
  {
    what: 'an init that hangs and does not feed the watchdog',
    variant: {
      commandLine: 'flotilla.watchdog=20',
      spoilRoot: (tree) =>
        program(join(tree, 'usr/sbin/init'), '#!/bin/sh\necho hangs\nwhile :; do /bin/sleep 60; done\n'),
    },
    why: /system: its init was started, the agent did not come up/,
  },
  {
    what: 'an agent that never comes up',
    variant: {
      spoilRoot: (tree) => writeFileSync(join(tree, 'usr/lib/flotilla/flotilla-agent.mjs'), 'process.exit(1)\n'),
    },
    why: /system: the release was not confirmed within \d+ s/,
  },
  {
    what: 'a health check that fails',
    variant: { check: 'echo "the arm does not answer"; exit 1' },
    why: /10-release|the arm does not answer/,
  },
]
