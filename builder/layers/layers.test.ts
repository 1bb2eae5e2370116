import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { composeLayers } from './compose-layers.ts'
import { explainSymbol } from './explain-symbol.ts'
import { LayerCatalogue, nearestNames } from './find-layers.ts'
import { formatSettings, mergeSettings, parseFragment } from './kconfig-fragment.ts'
import { type Layer, parseLayerList, pathVariable } from './layer.ts'
import { openChain, workspaceName } from './open-chain.ts'
import { resolveLayers } from './resolve-layers.ts'

let root: string
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'layers with a space '))
})
afterEach(() => rmSync(root, { recursive: true }))

/** Writes files under the root: path → content. */
function write(files: Readonly<Record<string, string>>): void {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
  }
}
const chain = (config: string, environment: Readonly<Record<string, string>> = {}, workspace = 'default') =>
  openChain({ root, skiffos: undefined, environment }, config, workspace)
const compose = (...args: Parameters<typeof chain>) => composeLayers(chain(...args))
const codeOf = (run: () => unknown) => {
  try {
    run()
  } catch (error) {
    return error as { code: string; message: string }
  }
  throw new Error('nothing was thrown')
}

describe('layer names', () => {
  it('are split by commas, spaces and lines; a malformed one is an error that names where it stands', () => {
    expect(parseLayerList('pi/4, skiff/core\n my-team/robot_arm', 'x')).toEqual([
      'pi/4',
      'skiff/core',
      'my-team/robot_arm',
    ])
    expect(codeOf(() => parseLayerList('pi/4,core', 'SKIFF_CONFIG'))).toMatchObject({
      code: 'BAD_CONFIG',
      message: expect.stringMatching(/SKIFF_CONFIG.*"core"/),
    })
    expect(() => parseLayerList('../etc/passwd', 'x')).toThrow(/not a layer name/)
  })

  it('have one variable each, and two layers that share one are refused', () => {
    expect(pathVariable('my-team/robot_arm')).toBe('SKIFF_CONFIG_PATH_MY_TEAM_ROBOT_ARM')
    write({ 'configs/a/b_c/metadata/description': 'x', 'configs/a_b/c/metadata/description': 'x' })
    expect(codeOf(() => chain('a/b_c'))).toMatchObject({
      code: 'BAD_CONFIG',
      message: expect.stringMatching(/a\/b_c and a_b\/c .*SKIFF_CONFIG_PATH_A_B_C/),
    })
  })

  it('that are not there are answered with the nearest', () => {
    write({ 'configs/pi/4/buildroot/x': '', 'configs/virt/qemu/buildroot/x': '' })
    expect(codeOf(() => chain('pi/5'))).toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringMatching(/no layer pi\/5; did you mean pi\/4/),
    })
    expect(nearestNames('vm/qemu', ['virt/qemu', 'pi/4'])).toEqual(['virt/qemu'])
  })
})

describe('the search for layers', () => {
  it('prefers a variable, then extra paths from left to right, then what ships; links count', () => {
    for (const place of ['configs', 'one', 'two', 'elsewhere']) write({ [`${place}/pi/4/metadata/description`]: place })
    symlinkSync(join(root, 'elsewhere/pi/4'), join(root, 'two/pi/linked'))
    const described = (environment: Readonly<Record<string, string>>, name = 'pi/4') =>
      chain(name, environment).requested[0]?.metadata.description
    const extra = { SKIFF_EXTRA_CONFIGS_PATH: `${root}/one:${root}/two` }
    expect(described({})).toBe('configs')
    expect(described(extra)).toBe('one')
    expect(described(extra, 'pi/linked')).toBe('elsewhere')
    expect(described({ ...extra, SKIFF_CONFIG_PATH_PI_4: join(root, 'two/pi/4') })).toBe('two')
    expect(described({ SKIFF_CONFIG_PATH_MY_OWN: join(root, 'elsewhere/pi/4') }, 'my/own')).toBe('elsewhere')
    const catalogue = new LayerCatalogue({ roots: [join(root, 'one'), join(root, 'configs')], environment: {} })
    expect(catalogue.list()[0]?.shadows).toEqual([join(root, 'configs/pi/4')])
  })

  it('says when an extra path is not there', () => {
    write({ 'configs/pi/4/buildroot/x': '' })
    expect(codeOf(() => chain('pi/4', { SKIFF_EXTRA_CONFIGS_PATH: `${root}/nowhere` }))).toMatchObject({
      code: 'NOT_FOUND',
    })
  })

  it('does not mind a malformed layer that nobody asks for', () => {
    write({ 'configs/pi/4/buildroot/x': '', 'configs/bad/one/metadata/dependencies': 'what is this;' })
    expect(chain('pi/4').requested).toHaveLength(1)
    expect(codeOf(() => chain('bad/one')).message).toMatch(/bad\/one\/metadata\/dependencies/)
  })
})

/** Layers in memory, by their dependencies. */
const lookup =
  (needs: Readonly<Record<string, readonly string[]>>) =>
  (name: string): Layer => ({
    name,
    path: `/${name}`,
    metadata: {
      description: '',
      dependencies: needs[name] ?? [],
      commands: [],
      unlisted: false,
      buildTarget: undefined,
    },
  })
const names = (layers: readonly Layer[]) => layers.map((layer) => layer.name)

describe('the order of layers', () => {
  it('puts a dependency before its dependant, also when it was listed later', () => {
    const needs = {
      'pi/4': ['skiff/moduleimg', 'pi/common'],
      'skiff/core': ['apps/docker'],
      'apps/docker': ['apps/runc'],
    }
    expect(names(resolveLayers(['pi/4', 'skiff/core'], lookup(needs)))).toEqual([
      'skiff/moduleimg',
      'pi/common',
      'pi/4',
      'apps/runc',
      'apps/docker',
      'skiff/core',
    ])
    expect(names(resolveLayers(['pi/4', 'skiff/moduleimg', 'pi/common'], lookup(needs)))).toEqual([
      'skiff/moduleimg',
      'pi/common',
      'pi/4',
    ])
  })

  it('refuses a circle and names its files', () => {
    const error = codeOf(() => resolveLayers(['a/a'], lookup({ 'a/a': ['b/b'], 'b/b': ['c/c'], 'c/c': ['b/b'] })))
    expect(error).toMatchObject({
      code: 'BAD_CONFIG',
      message: expect.stringMatching(/b\/b → c\/c → b\/b.*\/b\/b\/metadata\/dependencies, \/c\/c\/metadata/),
    })
  })

  it('respects every dependency, keeps the user’s order else, and is the same when resolved again', () => {
    const ids = Array.from({ length: 8 }, (_, at) => `n/${at}`)
    // A layer may need only those with a smaller number: no circles.
    const graph = fc.array(fc.array(fc.nat(7), { maxLength: 4 }), { minLength: 8, maxLength: 8 })
    fc.assert(
      fc.property(graph, fc.uniqueArray(fc.nat(7), { minLength: 1 }), (edges, wanted) => {
        const needs = Object.fromEntries(
          ids.map((id, at) => [id, (edges[at] ?? []).filter((other) => other < at).map((other) => `n/${other}`)]),
        )
        const order = names(
          resolveLayers(
            wanted.map((at) => `n/${at}`),
            lookup(needs),
          ),
        )
        expect(new Set(order).size).toBe(order.length)
        for (const id of order)
          for (const dependency of needs[id] ?? []) expect(order.indexOf(dependency)).toBeLessThan(order.indexOf(id))
        expect(names(resolveLayers(order, lookup(needs)))).toEqual(order)
      }),
    )
  })
})

describe('a Kconfig fragment', () => {
  it('is settings with their lines; n and "is not set" are the same', () => {
    const text = '# a comment\n\nBR2_A=y\n# BR2_B is not set\nBR2_C="x # y" # why\nBR2_D=n\n#BR2_E is not set\n'
    expect(parseFragment('buildroot', text, 'f').map(({ symbol, value, line }) => [symbol, value, line])).toEqual([
      ['BR2_A', 'y', 3],
      ['BR2_B', 'n', 4],
      ['BR2_C', '"x # y"', 5],
      ['BR2_D', 'n', 6],
    ])
  })

  it('in the wrong directory is an error that says where it belongs', () => {
    expect(codeOf(() => parseFragment('buildroot', 'CONFIG_SQUASHFS=y', 'a/buildroot/x'))).toMatchObject({
      code: 'BAD_CONFIG',
      message: expect.stringMatching(/a\/buildroot\/x:1: CONFIG_SQUASHFS does nothing under buildroot\/.*kernel/),
    })
    expect(() => parseFragment('kernel', 'BR2_A=y', 'f')).toThrow(/move it to buildroot\//)
    expect(() => parseFragment('kernel', 'CONFIG_A y', 'f')).toThrow(/f:1: wanted SYMBOL=value/)
  })

  it('loses nothing when it is merged and written again, and the last setting holds', () => {
    const setting = fc.tuple(fc.nat(6), fc.constantFrom('y', 'n', '"text"', '0x10'))
    fc.assert(
      fc.property(fc.array(setting, { maxLength: 40 }), (list) => {
        const settings = list.map(([at, value], line) => ({
          symbol: `CONFIG_S${at}`,
          value,
          file: 'f',
          line: line + 1,
        }))
        const merged = mergeSettings(settings)
        for (const [at, value] of list) {
          const last = list.findLast(([other]) => other === at)?.[1]
          expect(merged.get(`CONFIG_S${at}`)?.setting.value).toBe(last)
          void value
        }
        const text = formatSettings([...merged.values()].map((entry) => entry.setting))
        const again = mergeSettings(parseFragment('kernel', text, 'g'))
        expect([...again].map(([symbol, entry]) => [symbol, entry.setting.value])).toEqual(
          [...merged].map(([symbol, entry]) => [symbol, entry.setting.value]),
        )
        expect([...merged.values()].reduce((sum, entry) => sum + 1 + entry.overrode.length, 0)).toBe(list.length)
      }),
    )
  })
})

describe('a chain of layers', () => {
  it('counts base, layers, overrides, overrides of the workspace, base; files in C order', () => {
    write({
      'configs/base/pre/buildroot/a': 'BR2_X="pre"\nBR2_P=y\n',
      'configs/base/post/buildroot/a': 'BR2_LAST="post"\n',
      'configs/pi/4/buildroot/10-x': 'BR2_ORDER="10"\n',
      'configs/pi/4/buildroot/9-x': 'BR2_ORDER="9"\nBR2_X="pi"\nBR2_LAST="pi"\n',
      'overrides/buildroot/mine': 'BR2_X="mine"\nBR2_W="all"\n',
      'overrides/workspaces/ws/buildroot/mine': 'BR2_W="ws"\n',
    })
    const composition = compose('pi/4', {}, 'ws')
    const value = (symbol: string) => composition.symbols.buildroot.get(symbol)?.setting.value
    expect([value('BR2_X'), value('BR2_W'), value('BR2_LAST'), value('BR2_ORDER'), value('BR2_P')]).toEqual([
      '"mine"',
      '"ws"',
      '"post"',
      '"9"',
      'y',
    ])
    expect(names(composition.layers)).toEqual([
      '(base)/pre',
      'pi/4',
      '(overrides)/all',
      '(overrides)/ws',
      '(base)/post',
    ])
    const explained = explainSymbol(composition, 'BR2_X').map(({ layer, value: found, line, holds }) => [
      layer,
      found,
      line,
      holds,
    ])
    expect(explained).toEqual([
      ['(overrides)/all', '"mine"', 1, true],
      ['pi/4', '"pi"', 2, false],
      ['(base)/pre', '"pre"', 1, false],
    ])
  })

  it('collects every directory of a layer in order, with its path in place of SKIFF_CONFIG_ROOT', () => {
    const external = {
      'buildroot_ext/external.desc': 'name: ROBOT\n',
      'buildroot_ext/external.mk': '',
      'buildroot_ext/Config.in': '',
    }
    write({
      ...Object.fromEntries(Object.entries(external).map(([path, text]) => [`configs/my/robot/${path}`, text])),
      'configs/my/robot/metadata/dependencies': 'my/common',
      'configs/my/robot/metadata/buildtarget': 'images\n',
      'configs/my/robot/metadata/commands': 'flash Write it to a card',
      'configs/my/robot/extensions/Makefile': '',
      'configs/my/robot/kernel/x': 'CONFIG_DTS="SKIFF_CONFIG_ROOT/board.dts"\n',
      'configs/my/robot/cflags/x': '# fast\n-O3\n-mcpu=native\n',
      'configs/my/robot/hooks/pre.sh': '',
      'configs/my/robot/users/x': '',
      'configs/my/robot/permissions/x': '',
      'configs/my/robot/kernel_patches/0001.patch': '',
      'configs/my/common/root_overlay/etc/x': '',
      'configs/my/common/hooks/pre.sh': '',
      'configs/my/robot/root_overlay/etc/x': '',
    })
    const composition = compose('my/robot')
    const at = (path: string) => join(root, 'configs/my', path)
    expect(composition.overlays).toEqual([at('common/root_overlay'), at('robot/root_overlay')])
    expect(composition.hooks.pre.map(({ script }) => script)).toEqual([
      at('common/hooks/pre.sh'),
      at('robot/hooks/pre.sh'),
    ])
    expect(composition.externals).toEqual([at('robot/buildroot_ext')])
    expect(composition.patches.kernel).toEqual([at('robot/kernel_patches')])
    expect([composition.users, composition.permissions]).toEqual([[at('robot/users/x')], [at('robot/permissions/x')]])
    expect(composition.cflags).toEqual(['-O3', '-mcpu=native'])
    expect(composition.buildTarget).toBe('images')
    expect(composition.symbols.kernel.get('CONFIG_DTS')?.setting.value).toBe(`"${at('robot')}/board.dts"`)
    expect(composition.layers.at(-1)?.metadata.commands).toEqual([
      { target: 'flash', description: 'Write it to a card' },
    ])
  })

  it('warns of malformed lines in a SkiffOS checkout, and stops at them in layers of its own', () => {
    write({ 'configs/a/a/kernel/x': 'CONFIG_A=y\nPCIE_B=y\nCONFIG_C\n' })
    expect(codeOf(() => compose('a/a')).message).toMatch(/kernel\/x:2: .*did you mean CONFIG_PCIE_B/)
    const lenient = composeLayers(openChain({ root, skiffos: root, environment: {} }, 'a/a', 'default'))
    expect(lenient.warnings.map((warning) => /:\d/.exec(warning)?.[0])).toEqual([':2', ':3'])
    expect([...lenient.symbols.kernel.keys()]).toEqual(['CONFIG_A'])
  })

  it('refuses a BR2_EXTERNAL tree that is none, and two of one name', () => {
    write({ 'configs/a/a/buildroot_ext/external.desc': 'name: A\n' })
    expect(codeOf(() => compose('a/a')).message).toMatch(/needs external.mk, Config.in/)
    for (const name of ['a/a', 'b/b'])
      for (const file of ['external.desc', 'external.mk', 'Config.in'])
        write({ [`configs/${name}/buildroot_ext/${file}`]: file === 'external.desc' ? 'name: A\n' : '' })
    expect(codeOf(() => compose('a/a,b/b')).message).toMatch(/are both called A/)
  })

  it('warns of settings that would be lost', () => {
    write({
      'configs/a/a/buildroot/x': 'BR2_ROOTFS_OVERLAY="/mine"\nBR2_TARGET_OPTIMIZATION="-Os"\n',
      'configs/a/a/cflags/x': '-O2\n',
    })
    expect(compose('a/a').warnings).toEqual([
      expect.stringMatching(/a\/a\/buildroot\/x:1: BR2_ROOTFS_OVERLAY is set by the builder/),
      expect.stringMatching(/a\/a\/buildroot\/x:2: BR2_TARGET_OPTIMIZATION is overridden by the cflags/),
    ])
  })

  it('has a hash that follows every file, mode and link in it, and nothing else', () => {
    write({
      'configs/a/a/buildroot/x': 'BR2_A=y\n',
      'configs/a/a/root_overlay/etc/x': '1',
      'configs/b/b/buildroot/x': '',
    })
    const before = compose('a/a').sha256
    expect(compose('a/a').sha256).toBe(before)
    write({ 'configs/b/b/buildroot/x': 'BR2_B=y\n' })
    expect(compose('a/a').sha256).toBe(before)
    write({ 'configs/a/a/root_overlay/etc/x': '2' })
    expect(compose('a/a').sha256).not.toBe(before)
    // Also behind a link, to a layer or to a directory of one.
    write({
      'elsewhere/tree/external.mk': '',
      'elsewhere/tree/external.desc': 'name: E\n',
      'elsewhere/tree/Config.in': '',
    })
    symlinkSync(join(root, 'elsewhere/tree'), join(root, 'configs/a/a/buildroot_ext'))
    const linked = compose('a/a').sha256
    write({ 'elsewhere/tree/Config.in': '# changed' })
    expect(compose('a/a').sha256).not.toBe(linked)
  })

  it('needs a choice of layers, and cleans the name of a workspace as SkiffOS does', () => {
    write({ 'configs/a/a/buildroot/x': '' })
    expect(codeOf(() => chain(' '))).toMatchObject({ code: 'USAGE', message: expect.stringMatching(/SKIFF_CONFIG/) })
    expect(workspaceName('My Robot/2')).toBe('myrobot2')
    expect(workspaceName(undefined)).toBe('default')
  })
})
