import { readdirSync } from 'node:fs'

/** The Debian packages of those programs that are on no directory of the path, each once. @param path - as in PATH */
export function missingPackages(programs: Readonly<Record<string, string>>, path: string): readonly string[] {
  const present = new Set(path.split(':').flatMap((directory) => namesIn(directory)))
  const missing = Object.entries(programs).filter(([program]) => !present.has(program))
  return [...new Set(missing.map(([, name]) => name))]
}

function namesIn(directory: string): readonly string[] {
  try {
    return readdirSync(directory)
  } catch {
    return [] // a PATH may name what is not there
  }
}
