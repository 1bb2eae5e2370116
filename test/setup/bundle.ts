import { join } from 'node:path'
import { bundlePrograms } from '../../builder/images/bundle-programs.ts'
import { ROOT } from './gates.ts'

for (const path of Object.values(await bundlePrograms(ROOT, join(ROOT, 'dist')))) process.stdout.write(`${path}\n`)
