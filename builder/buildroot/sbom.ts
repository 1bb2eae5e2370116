import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import licenseIds from 'spdx-license-ids/index.json' with { type: 'json' }
import { FlotillaError } from '../../protocol/errors.ts'
import { buildEnvironment, type BuildPlace, showInfo } from './run-make.ts'

/** The version of CycloneDX that Buildroot's generator writes, in the name of the file that it would download. */
const SCHEMA = 'cyclonedx/spdx-1.6.schema.json'

/**
 * The bill of materials of a configured workspace, by Buildroot's own generator: CycloneDX, with licences, patches and the
 * CVEs that they mend. Works without a network: the list of licence names that the generator would fetch comes with us.
 * @returns the JSON text
 * @throws FlotillaError BUILD_FAILED with what the generator said
 */
export async function makeSbom(place: BuildPlace, project: { name: string; version: string }): Promise<string> {
  const schema = join(place.downloads, SCHEMA)
  if (!existsSync(schema)) {
    mkdirSync(dirname(schema), { recursive: true })
    writeFileSync(schema, JSON.stringify({ enum: licenseIds }))
  }
  const names = ['--project-name', project.name, '--project-version', project.version]
  const info = await showInfo(place)
  return new Promise((resolve, reject) => {
    const child = spawn('python3', [join(place.buildroot, 'utils/generate-cyclonedx'), ...names], {
      env: { ...buildEnvironment(process.env), BR2_DL_DIR: place.downloads },
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    let out = ''
    let words = ''
    child.stdout.setEncoding('utf8').on('data', (part: string) => void (out += part))
    child.stderr.setEncoding('utf8').on('data', (part: string) => void (words += part))
    const fail = (why: string) => reject(new FlotillaError('BUILD_FAILED', `sbom of ${project.name}: ${why}`))
    child.once('error', (error) => fail(`${error.message}; on Debian: apt-get install python3`))
    child.once('close', (code) => (code === 0 ? resolve(out) : fail(words.trim().split('\n').at(-1) ?? '')))
    child.stdin.on('error', () => {}) // it ended before it had read all: its exit code says why
    child.stdin.end(info)
  })
}
