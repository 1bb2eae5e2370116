import { describeAttacks } from './describe-attacks.ts'
import { EXCHANGE_ATTACKS } from './exchange-attacks.ts'

describeAttacks('a fleet with an offender in its exchange', EXCHANGE_ATTACKS, 'exchange-attacks.txt')
