import { execFile, execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { imageSet } from '../fleet/build-images.ts'

const MAIN = imageSet().flotilla
const FIXTURE = join(import.meta.dirname, 'fixture')

let root: string
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'flotilla-build-'))
  write({
    'configs/base/pre/buildroot/config': 'BR2_x86_64=y\nBR2_TOOLCHAIN_USES_GLIBC=y\nBR2_PACKAGE_SYSTEMD=y\n',
    'configs/my/robot/buildroot/config': 'BR2_PACKAGE_HELLO=y\n# BR2_PACKAGE_HELLO_LOUD is not set\n',
    'configs/my/robot/root_overlay/etc/robot': 'one\n',
  })
})
afterEach(() => rmSync(root, { recursive: true }))

function write(files: Readonly<Record<string, string>>): void {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
  }
}
const read = (path: string) => readFileSync(join(root, path), 'utf8')

/** Runs `flotilla` as a person would, with the fixture for Buildroot. */
function flotilla(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const list = [MAIN, ...args, '--root', root, '--config', 'my/robot']
  return new Promise((done) => {
    execFile(process.execPath, list, { env: { ...process.env, BUILDROOT_DIR: FIXTURE } }, (error, stdout, stderr) =>
      done({ code: typeof error?.code === 'number' ? error.code : 0, stdout, stderr }),
    )
  })
}

describe('a build with the fixture of Buildroot', () => {
  it('configures strictly: what is asked for is what is there', async () => {
    const { code, stdout, stderr } = await flotilla('configure')
    expect([code, stdout]).toEqual([0, ''])
    expect(stderr).toContain('is configured for Buildroot 0.1-fixture')
    expect(read('workspaces/default/.config')).toContain('BR2_PACKAGE_SYSTEMD=y')
  })

  it('stops at a setting that is lost, with file, line and reason, unless the layer waives it with one', async () => {
    write({
      'configs/my/robot/buildroot/typo': 'BR2_PACKAGE_HALLO=y\n',
      'overrides/buildroot/mine': '# BR2_TOOLCHAIN_USES_GLIBC is not set\n',
    })
    const lost = await flotilla('configure')
    expect(lost.code).toBe(2)
    expect(lost.stdout).toMatch(/error: .*configs\/my\/robot\/buildroot\/typo:1: BR2_PACKAGE_HALLO=y unknown/)
    expect(lost.stdout).toMatch(
      /configs\/base\/pre\/buildroot\/config:3: BR2_PACKAGE_SYSTEMD=y dropped: it needs BR2_TOOLCHAIN_USES_GLIBC/,
    )
    expect(lost.stderr).toMatch(/2 settings were lost/)
    write({
      'configs/my/robot/metadata/waivers': 'BR2_PACKAGE_HALLO only newer versions have it\nBR2_PACKAGE_SYSTEMD\n',
    })
    expect((await flotilla('configure')).stderr).toMatch(/metadata\/waivers:2: wanted a symbol and the reason/)
    write({
      'configs/my/robot/metadata/waivers':
        'BR2_PACKAGE_HALLO only newer versions have it\nBR2_PACKAGE_SYSTEMD no init here\n',
    })
    const waived = await flotilla('configure')
    expect([waived.code, waived.stdout]).toEqual([0, expect.stringContaining('waived: only newer versions have it')])
  })

  it('builds: overlays in order, hooks with their layer, images; edits take effect, and nothing is configured twice', async () => {
    write({
      'configs/my/robot/hooks/pre.sh': 'cp "$SKIFF_CURRENT_CONF_DIR/buildroot/config" "$TARGET_DIR/etc/from-hook"\n',
      'configs/my/robot/hooks/post.sh': 'echo "$SKIFF_WORKSPACE" > "$BINARIES_DIR/workspace"\n',
      'overrides/root_overlay/etc/robot': 'two\n',
    })
    const first = await flotilla('compile')
    expect([first.code, first.stdout]).toEqual([0, `${join(root, 'workspaces/default/images')}\n`])
    expect(first.stderr).toMatch(/package 2 {2}hello: Building/)
    const target = join(root, 'workspaces/default/target/etc')
    expect(readFileSync(join(target, 'robot'), 'utf8')).toBe('two\n')
    expect(existsSync(join(target, 'from-hook'))).toBe(true)
    expect(read('workspaces/default/images/workspace')).toBe('default\n')
    const state = read('workspaces/.config_default/state.json')
    expect((await flotilla('compile')).code).toBe(0)
    expect(read('workspaces/.config_default/state.json')).toBe(state)
    write({ 'configs/my/robot/buildroot/config': 'BR2_PACKAGE_HELLO=y\nBR2_PACKAGE_HELLO_LOUD=y\n' })
    await flotilla('compile')
    expect(read('workspaces/.config_default/state.json')).not.toBe(state)
    expect(read('workspaces/default/.config')).toContain('BR2_PACKAGE_HELLO_LOUD=y')
  })

  it('builds without a network from what is in the downloads, and stops at a source that is not', async () => {
    const lacks = await flotilla('compile', '--offline')
    expect([lacks.code, lacks.stderr]).toEqual([
      7,
      expect.stringMatching(/hello \(Downloading\): cp: cannot stat '.*downloads\/default\/hello\/hello-1.0.tar.gz'/),
    ])
    write({ 'workspaces/.downloads/default/hello/hello-1.0.tar.gz': 'source' })
    expect((await flotilla('compile', '--offline')).code).toBe(0)
  })

  it('says beside the images which of them are a release’s, and for what', async () => {
    write({
      'configs/my/robot/metadata/board.yaml':
        'arch: x86_64\nfamily: grub\nhardware: ["my-robot"]\nkernel: k\nbootloader: b\nblobs: none\nlayout: none\ncommandLine: console=ttyS0\n',
      'configs/my/robot/hooks/post.sh':
        'for name in bzImage rootfs.squashfs u-boot.bin; do : > "$BINARIES_DIR/$name"; done\n',
    })
    expect((await flotilla('compile')).code).toBe(0)
    expect(JSON.parse(read('workspaces/default/images/flotilla.json'))).toEqual({
      schema: 1,
      board: 'my-robot',
      hardware: ['my-robot'],
      family: 'grub',
      layers: 'my/robot',
      buildroot: '0.1-fixture',
      files: ['bzImage', 'cmdline', 'rootfs.squashfs'],
    })
    expect(read('workspaces/default/images/cmdline')).toBe('console=ttyS0\n')
  })

  it('names the first error and its package, and a hook that fails', async () => {
    write({ 'overrides/buildroot/x': 'BR2_PACKAGE_HELLO_BROKEN=y\n' })
    const broken = await flotilla('compile')
    expect(broken.code).toBe(7)
    expect(broken.stderr).toMatch(
      /compile all: hello \(Building\): hello.c:1:1: error: hello is broken; see .*build.log:\d+ \[BUILD_FAILED\]/,
    )
    write({ 'overrides/buildroot/x': '', 'configs/my/robot/hooks/pre.sh': 'false\n' })
    const hook = await flotilla('compile')
    expect(hook.code).toBe(7)
    expect(read('workspaces/.config_default/build.log')).toMatch(/hook .*my\/robot\/hooks\/pre.sh failed/)
  })

  it('keeps what was changed in a menu as an override of the workspace', async () => {
    expect((await flotilla('br', 'menuconfig')).code).toBe(0)
    expect(read('overrides/workspaces/default/buildroot/zz-menuconfig')).toBe('BR2_PACKAGE_HELLO_LOUD=y\n')
    await flotilla('configure')
    expect(read('workspaces/default/.config')).toContain('BR2_PACKAGE_HELLO_LOUD=y')
  })

  it('refuses images whose kernel lost a setting of its fragments, and keeps what a kernel menu changed', async () => {
    write({
      'configs/my/robot/buildroot/kernel': 'BR2_LINUX_KERNEL=y\n',
      'configs/my/robot/kernel/config': 'CONFIG_SQUASHFS=y\n',
    })
    expect((await flotilla('compile')).code).toBe(0)
    write({ 'configs/my/robot/kernel/more': 'CONFIG_LOST=y\n' })
    const lost = await flotilla('compile')
    expect([lost.code, lost.stdout]).toEqual([
      2,
      expect.stringMatching(/kernel\/more:1: CONFIG_LOST=y dropped: the kernel is configured with n/),
    ])
    write({ 'configs/my/robot/metadata/waivers': 'CONFIG_LOST older kernels only\n' })
    expect((await flotilla('compile')).code).toBe(0)
    expect((await flotilla('br', 'linux-menuconfig')).code).toBe(0)
    expect(read('overrides/workspaces/default/kernel/zz-menuconfig')).toBe('CONFIG_BY_HAND=y\n')
  })

  it('runs commands of layers with the variables that SkiffOS gives them, overrides among the places to look', async () => {
    write({
      'configs/my/robot/metadata/commands': 'where Say where things are\n',
      'configs/my/robot/extensions/Makefile':
        'where:\n\t@echo "$$SKIFF_CURRENT_CONF_NAME $$SKIFF_WORKSPACE_DIR" > $$SKIFF_CURRENT_CONF_DIR/said\n\t@echo $$SKIFF_CONFIG_PATH >> $$SKIFF_CURRENT_CONF_DIR/said\nbad:\n\t@exit 3\n',
      'overrides/resources/x': '',
    })
    expect((await flotilla('cmd', 'my/robot', 'where')).code).toBe(0)
    const at = (path: string) => join(root, path)
    expect(read('configs/my/robot/said')).toBe(
      `my/robot ${at('workspaces/default')}\n${at('configs/my/robot')} ${at('overrides')}\n`,
    )
    expect((await flotilla('cmd', 'my/robot', 'bad')).stderr).toMatch(/cmd my\/robot bad: make ended with 2/)
    expect((await flotilla('cmd', 'my/robto', 'where')).stderr).toMatch(/did you mean my\/robot/)
  })

  it('is one at a time in a workspace; what a killed process left behind does not count', async () => {
    write({ 'workspaces/.config_default/lock': `${process.pid} 1\n` }) // the same number, another process
    expect((await flotilla('configure')).code).toBe(0)
    const sleeper = spawn('sleep', ['60'])
    const start = readFileSync(`/proc/${sleeper.pid}/stat`, 'latin1').split(') ').at(-1)?.split(' ')[19]
    write({ 'workspaces/.config_default/lock': `${sleeper.pid} ${start}\n` })
    const busy = await flotilla('configure')
    sleeper.kill()
    expect([busy.code, busy.stderr]).toEqual([
      6,
      expect.stringMatching(/process \d+ is building in it.*SKIFF_WORKSPACE/),
    ])
  })

  it('refuses a path with a space and a directory that is no Buildroot', async () => {
    const spaced = join(root, 'with space')
    mkdirSync(join(spaced, 'configs/my/robot/buildroot'), { recursive: true })
    const run = (buildroot: string, at: string) => {
      const args = [MAIN, 'configure', '--root', at, '--config', 'my/robot']
      try {
        execFileSync(process.execPath, args, { env: { ...process.env, BUILDROOT_DIR: buildroot }, stdio: 'pipe' })
      } catch (error) {
        return String((error as { stderr: Buffer }).stderr)
      }
      return ''
    }
    expect(run(FIXTURE, spaced)).toMatch(/cannot have spaces/)
    expect(run(root, root)).toMatch(/use BUILDROOT_DIR .*Makefile/)
  })
})
