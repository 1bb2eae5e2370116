import { Repository } from '../../builder/release/repository.ts'
import { prizesOf } from './company.ts'
import { EXCHANGE_ATTACKS } from './exchange-attacks.ts'
import { NEWS_ATTACKS } from './news-attacks.ts'

/** A hostile peer, run as a program of its own: `attacker.ts ATTACK REPOSITORY VICTIM-DIRECTORY ADDRESS…`. Prints how many hostile acts it did. */
const [name = '', path = '', victim = '', ...addresses] = process.argv.slice(2)
const attack = [...EXCHANGE_ATTACKS, ...NEWS_ATTACKS].find((entry) => entry.name === name)
if (attack === undefined) throw new Error(`no attack ${name}`)
let acts = 0
let told = 0
setInterval(() => {
  if (acts === told) return
  told = acts
  process.stdout.write(`acts ${acts}\n`)
}, 100)
const repository = Repository.open(path)
await attack.mount({
  repository,
  addresses,
  prizes: prizesOf(repository),
  victim,
  did: (count = 1) => {
    acts += count
  },
})
// From here on: what the other side cuts is cut in any state.
process.on('unhandledRejection', () => {})
process.on('uncaughtException', () => {})
