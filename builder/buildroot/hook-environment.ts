import { join } from 'node:path'
import type { Composition } from '../layers/compose-layers.ts'
import { pathVariable } from '../layers/layer.ts'
import type { Workspace } from './workspace.ts'

/** Where things are, as hooks and extension commands of layers want to know it. */
export type HookPlaces = {
  /** The project, or the SkiffOS checkout in its place. */
  readonly home: string
  readonly buildroot: string
  /** Of the layers: `git describe`, and the commit. */
  readonly version: string
  readonly commit: string
}

/**
 * The variables that hooks and extension commands of layers find, under SkiffOS's names. Pure.
 * Unlike SkiffOS's, `SKIFF_CONFIG_PATH` ends with the overrides, so that files which scripts look for in all layers are found
 * there too.
 * @see facts/skiffos.md 1.6
 */
export function hookEnvironment(
  { layers }: Pick<Composition, 'layers'>,
  workspace: Workspace,
  { home, buildroot, version, commit }: HookPlaces,
): Readonly<Record<string, string>> {
  const named = layers.filter(({ name }) => !name.startsWith('('))
  const searched = layers.filter(({ name }) => !name.startsWith('(base)'))
  return {
    BUILDROOT_DIR: buildroot,
    SKIFF_VERSION: version,
    SKIFF_VERSION_COMMIT: commit,
    SKIFF_ROOT_DIR: home,
    SKIFF_CONFIGS_DIR: join(home, 'configs'),
    SKIFF_OVERRIDES_DIR: join(home, 'overrides'),
    SKIFF_WS_OVERRIDES_DIR: join(home, 'overrides/workspaces', workspace.name),
    SKIFF_RESOURCES_DIR: join(home, 'resources'),
    SKIFF_SCRIPTS_DIR: join(home, 'scripts'),
    SKIFF_WORKSPACES_DIR: join(workspace.output, '..'),
    SKIFF_WORKSPACE: workspace.name,
    SKIFF_WORKSPACE_DIR: workspace.output,
    SKIFF_BUILDROOT_DIR: workspace.output,
    SKIFF_FINAL_CONFIG_DIR: workspace.generated,
    SKIFF_CONFIG: named.map(({ name }) => name).join(','),
    SKIFF_CONFIGS: named.map(({ name }) => name).join(' '),
    SKIFF_CONFIG_PATH: searched.map(({ path }) => path).join(' '),
    ...Object.fromEntries(named.map(({ name, path }) => [pathVariable(name), path])),
  }
}
