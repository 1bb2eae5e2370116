import { describeAttacks } from './describe-attacks.ts'
import { NEWS_ATTACKS } from './news-attacks.ts'

describeAttacks('a fleet with an offender in its news', NEWS_ATTACKS, 'news-attacks.txt')
