import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { build } from 'esbuild'
import { formatRows } from '../../protocol/terminal/print.ts'
import { CACHE } from '../fleet/build-images.ts'
import { DECODERS } from './decoders.ts'

/**
 * `npm run fuzz [SECONDS] [DECODER…]`: coverage-guided fuzzing of every decoder with Jazzer.js, which is fetched from
 * the npm registry into the cache. Its addon needs glibc 2.38; on Debian 12 FUZZ_GLIBC names a directory with the
 * loader and libraries of a newer Debian (libc6, libstdc++6, libgcc-s1 unpacked with dpkg-deb).
 */
const directory = join(CACHE, 'fuzz')
const [seconds = '60', ...wanted] = process.argv.slice(2)
const names = wanted.length === 0 ? Object.keys(DECODERS) : wanted
const unknown = names.find((name) => !(name in DECODERS))
if (unknown !== undefined || !/^\d+$/.test(seconds)) {
  process.stderr.write(`fuzz: [SECONDS] [DECODER…]; decoders: ${Object.keys(DECODERS).join(', ')}\n`)
  process.exit(2)
}
const jazzer = fetchJazzer()
const bundle = join(directory, 'target.js')
await build({
  entryPoints: [join(import.meta.dirname, 'fuzz-target.ts')],
  outfile: bundle,
  bundle: true,
  platform: 'node',
  format: 'cjs',
  sourcemap: 'inline',
  external: ['*.node', 'cpu-features'],
  define: { 'import.meta.url': JSON.stringify(pathToFileURL(bundle).href) },
  logLevel: 'error',
})
const rows = names.map((name) => runOne(name))
process.stdout.write(
  formatRows(rows, [
    ['DECODER', (row) => row.name],
    ['RUNS', (row) => String(row.runs)],
    ['EDGES', (row) => row.edges],
    ['RESULT', (row) => row.result],
  ]),
)
process.exitCode = rows.every((row) => row.result === 'nothing found') ? 0 : 1

function runOne(name: string) {
  const corpus = join(directory, 'corpus', name)
  mkdirSync(corpus, { recursive: true })
  for (const seed of DECODERS[name]?.seeds ?? [])
    writeFileSync(join(corpus, createHash('sha256').update(seed).digest('hex').slice(0, 16)), seed)
  const glibc = process.env['FUZZ_GLIBC']
  const loader = glibc === undefined ? [] : [join(glibc, 'ld-linux-x86-64.so.2'), '--library-path', glibc]
  const [program, ...args] = [
    ...loader,
    process.execPath,
    jazzer,
    bundle.replace(/\.js$/, ''),
    ...['-i', bundle, '-f', 'fuzz', '--sync', '--disable_bug_detectors=.*', corpus, '--'],
    ...[`-max_total_time=${seconds}`, '-max_len=16384', '-use_value_profile=1', '-rss_limit_mb=2000'],
    `-artifact_prefix=${join(directory, `${name}-`)}`,
  ]
  process.stderr.write(`fuzz ${name}\n`)
  // libFuzzer loses its last lines on a pipe: a file instead.
  const log = join(directory, `${name}.log`)
  const file = openSync(log, 'w')
  const env = { ...process.env, FUZZ_DECODER: name }
  const { status } = spawnSync(program, args, { env, stdio: ['ignore', file, file], cwd: directory })
  closeSync(file)
  const output = readFileSync(log, 'latin1')
  const runs = Number([...output.matchAll(/^#(\d+)\t/gm)].at(-1)?.[1] ?? 0)
  const edges = [...output.matchAll(/cov: (\d+)/g)].at(-1)?.[1] ?? '?'
  return { name, runs, edges, result: status === 0 && runs > 0 ? 'nothing found' : `see ${log}` }
}

function fetchJazzer(): string {
  const cli = join(directory, 'node_modules/@jazzer.js/core/dist/cli.js')
  if (existsSync(cli)) return cli
  mkdirSync(directory, { recursive: true })
  writeFileSync(join(directory, 'package.json'), '{"private": true}\n')
  process.stderr.write('fetching @jazzer.js/core 4.0.0 from the npm registry\n')
  const args = ['install', '--no-audit', '--no-fund', '@jazzer.js/core@4.0.0']
  if (spawnSync('npm', args, { cwd: directory, stdio: ['ignore', 'ignore', 'inherit'] }).status !== 0) process.exit(1)
  return cli
}
