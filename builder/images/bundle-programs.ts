import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { build, type Plugin } from 'esbuild'

/**
 * What a device and a workstation run: one file each, no node_modules. What a program loads later, if at all, is in a
 * directory of its name beside it.
 */
const PROGRAMS = {
  'flotilla-agent': 'agent/main.ts',
  'flotilla-login': 'agent/login/login-shell.ts',
  'directory-loader': 'agent/slots/directory-loader.ts',
  flotilla: 'builder/main.ts',
} as const

// dockerode can talk over SSH and BuildKit; the agent uses the local socket only. Leaving them out keeps two megabytes
// and a native module out of every device.
const leaveOut: Plugin = {
  name: 'leave-out',
  setup(context) {
    context.onResolve(
      { filter: /^(ssh2|cpu-features|@grpc\/grpc-js|@grpc\/proto-loader|protobufjs)(\/|$)/ },
      (args) => ({ path: args.path, namespace: 'left-out' }),
    )
    context.onLoad({ filter: /.*/, namespace: 'left-out' }, () => ({ contents: 'module.exports = {}' }))
  },
}

/** Bundles every program into `directory` as an ES module for Node 22 and newer. @returns paths by name */
export async function bundlePrograms(
  root: string,
  directory: string,
): Promise<Readonly<Record<keyof typeof PROGRAMS, string>>> {
  mkdirSync(directory, { recursive: true })
  const out = (name: keyof typeof PROGRAMS) => join(directory, `${name}.mjs`)
  for (const [name, entry] of Object.entries(PROGRAMS)) {
    rmSync(join(directory, name), { recursive: true, force: true })
    await build({
      entryPoints: { [name]: join(root, entry) },
      outdir: directory,
      outExtension: { '.js': '.mjs' },
      splitting: true,
      chunkNames: `${name}/[name]-[hash]`,
      bundle: true,
      platform: 'node',
      target: 'node22',
      format: 'esm',
      minify: true,
      keepNames: true,
      legalComments: 'none',
      external: ['esbuild'],
      plugins: [leaveOut],
      // CommonJS parts (dns-packet, dockerode) call require.
      banner: {
        js: "import{createRequire as flotillaRequire}from'node:module';const require=flotillaRequire(import.meta.url);",
      },
      logLevel: 'warning',
    })
  }
  return {
    'flotilla-agent': out('flotilla-agent'),
    'flotilla-login': out('flotilla-login'),
    'directory-loader': out('directory-loader'),
    flotilla: out('flotilla'),
  }
}
